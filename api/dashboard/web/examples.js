// Examples of a file, line by line, as the browser holds them while they are corrected.

/** The text of a file. What is no UTF-8 is refused: signs that cannot be read would be lost. */
export async function textIn(file) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} is not text in UTF-8. In a spreadsheet, save it as "CSV UTF-8"; in an editor, choose the encoding UTF-8.`);
  }
}

/** Rows of a file: {raw, value, line}; `value` is null where a line is no JSON object. CSV becomes the same rows. */
export function read(name, text) {
  text = text.replace(/^\uFEFF/, "");
  if (!text.includes("\n")) text = text.replace(/\r/g, "\n"); // spreadsheets on a Mac still write CR alone
  if (isTable(name, text)) return readTable(text);
  return text.split("\n").map((line, index) => ({ ...parsed(line.replace(/\r$/, "")), line: index + 1 })).filter((row) => row.raw.trim());
}

/** By its ending, or else by how it begins, as the server tells them apart. */
const isTable = (name, text) => /\.csv$/i.test(name) || (!/\.(jsonl|ndjson|json)$/i.test(name) && !/^\s*[{[]/.test(text));

function parsed(raw) {
  try {
    const value = JSON.parse(raw);
    return { raw, value: value && typeof value === "object" && !Array.isArray(value) ? value : null };
  } catch {
    return { raw, value: null };
  }
}

/** With commas; or, where the header has none, with the semicolons or tabs of spreadsheets in other countries. */
function readTable(text) {
  const [first = ""] = text.match(/^.*\S.*$/m) || [], comma = first.includes(",") ? "," : first.includes(";") ? ";" : first.includes("\t") ? "\t" : ",";
  const [head, ...records] = cells(text.replace(/\r\n/g, "\n"), comma).filter(({ values }) => values.some((cell) => cell.trim()));
  if (!head) return [];
  const names = head.values.map((name) => name.trim()), twice = names.find((name, index) => names.indexOf(name) < index);
  if (twice === "") throw new Error(`The header has ${names.filter((name) => !name).length} columns without a name. Remove these columns, and choose the file again.`);
  if (twice !== undefined) throw new Error(`The header names the column "${twice}" more than once. Give every column its own name, and choose the file again.`);
  if (head.broken) throw new Error("The quotes in the header are wrong. Correct them, and choose the file again.");
  return records.map(({ line, values, broken }) => (!broken && values.length === names.length ? { ...fresh(Object.fromEntries(names.map((name, index) => [name, values[index]]))), line } : { raw: JSON.stringify(values.join(comma)), value: null, line, broken, columns: [values.length, names.length] }));
}

/** Records of a table: {line, values, broken}, with the line on which each begins, and whether its quotes are wrong. */
function cells(text, comma) {
  const records = [{ line: 1, values: [] }];
  let cell = "", quoted = false, line = 1;
  for (let index = 0; index < text.length; index += 1) {
    const sign = text[index];
    if (sign === "\n") line += 1;
    if (quoted) {
      const next = text[index + 1];
      if (sign !== '"') cell += sign;
      else if (next === '"') { cell += '"'; index += 1; } else {
        quoted = false;
        if (next !== undefined && next !== comma && next !== "\n") records[records.length - 1].broken = true;
      }
    } else if (sign === '"' && !cell) quoted = true; // within a cell that has begun it is a sign like others
    else if (sign === comma || sign === "\n") {
      records[records.length - 1].values.push(cell);
      cell = "";
      if (sign === "\n") records.push({ line, values: [] });
    } else cell += sign;
  }
  records[records.length - 1].values.push(cell);
  if (quoted) records[records.length - 1].broken = true;
  return records;
}

export const fresh = (value) => ({ raw: JSON.stringify(value), value });
/** The same example under another label, in the part of the file that it was in. */
export const relabelled = (row, label) => ({ ...fresh({ ...row.value, label }), aside: row.aside });
/** Rows by the line, less one, on which they stand in their file. */
export function byLine(rows) {
  const found = [];
  for (const row of rows) found[row.line - 1] = row;
  return found;
}
export const write = (rows) => rows.map((row) => `${row.raw}\n`).join("");
/** Whole numbers are read as text, as by the server. */
export function labelOf(row) {
  const label = row.value?.label;
  return typeof label === "string" ? label : Number.isInteger(label) ? String(label) : null;
}

/** What a person reads of an example. */
export function textOf(row) {
  const value = row.value;
  if (!value) return row.raw;
  if (typeof value.text === "string") return value.text_pair ? `${value.text} — ${value.text_pair}` : value.text;
  if (typeof value.prompt === "string") return `${value.prompt} → ${value.completion}`;
  if (Array.isArray(value.messages)) return value.messages.map((message) => `${message.role}: ${message.content}`).join("  ");
  return row.raw;
}

export function labels(rows) {
  const counts = new Map();
  for (const row of rows) {
    const label = labelOf(row);
    if (label !== null) counts.set(label, (counts.get(label) || 0) + 1);
  }
  return counts;
}

const words = (row) => textOf(row).toLowerCase().replace(/\s+/g, " ").trim();

/** Rows whose words another row has under another label: [{place, other}]. The split may part them, so that no one file shows it. */
export function contradictions(rows) {
  const groups = new Map();
  rows.forEach((row, place) => {
    if (labelOf(row) !== null) groups.set(words(row), [...(groups.get(words(row)) || []), place]);
  });
  return [...groups.values()].flatMap((places) => places.map((place) => ({ place, other: places.find((each) => labelOf(rows[each]) !== labelOf(rows[place])) })))
    .filter(({ other }) => other !== undefined);
}

/** Places of the rows that say again what an earlier one says, word for word. */
export function duplicates(rows) {
  const seen = new Set(), found = [];
  rows.forEach((row, index) => {
    const key = row.value ? JSON.stringify([words(row), labelOf(row)]) : row.raw;
    if (seen.has(key)) found.push(index);
    seen.add(key);
  });
  return found;
}

/** Sets a share of every label aside: [training, validation]. The same rows always fall apart in the same way. */
export function split(rows, share) {
  const groups = new Map();
  rows.forEach((row, index) => {
    const key = labelOf(row) ?? "";
    groups.set(key, [...(groups.get(key) || []), index]);
  });
  const aside = new Set();
  for (const group of groups.values()) {
    const wanted = Math.min(Math.round(group.length * share), group.length - 2);
    for (let taken = 0; taken < wanted; taken += 1) aside.add(group[Math.floor(((taken + 0.5) * group.length) / wanted)]);
  }
  return [rows.filter((row, index) => !aside.has(index)), rows.filter((row, index) => aside.has(index))];
}
