// Examples of a file, line by line, as the browser holds them while they are corrected.

/** Rows of a file: {raw, value}; `value` is null where a line is no JSON object. CSV becomes the same rows. */
export function read(name, text) {
  text = text.replace(/^\uFEFF/, "");
  if (/\.csv$/i.test(name)) return readTable(text);
  return text.split(/\r?\n/).filter((line) => line.trim()).map((raw) => {
    try {
      const value = JSON.parse(raw);
      return { raw, value: value && typeof value === "object" && !Array.isArray(value) ? value : null };
    } catch {
      return { raw, value: null };
    }
  });
}

function readTable(text) {
  const [head, ...lines] = cells(text).filter((line) => line.some((cell) => cell.trim()));
  return (lines || []).map((line) => fresh(Object.fromEntries(head.map((name, index) => [name.trim(), line[index] ?? ""]))));
}

function cells(text) {
  const lines = [[]];
  let cell = "", quoted = false;
  for (let index = 0; index < text.length; index += 1) {
    const sign = text[index];
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (text[index + 1] === '"') { cell += '"'; index += 1; } else quoted = false;
    } else if (sign === '"') quoted = true;
    else if (sign === "," || sign === "\n" || sign === "\r") {
      if (sign === "\r" && text[index + 1] === "\n") index += 1;
      lines[lines.length - 1].push(cell);
      cell = "";
      if (sign !== ",") lines.push([]);
    } else cell += sign;
  }
  lines[lines.length - 1].push(cell);
  return lines;
}

export const fresh = (value) => ({ raw: JSON.stringify(value), value });
export const write = (rows) => rows.map((row) => `${row.raw}\n`).join("");
export const labelOf = (row) => (typeof row.value?.label === "string" ? row.value.label : null);

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
