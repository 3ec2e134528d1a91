// Examples as files of the service: what an earlier job was given, and what is made of it here.
import { get, getText, remove, upload } from "../api.js";
import { byLine, labels as labelsOf, read, split, textIn, write } from "../examples.js";
import { doubtsOf } from "./report.js";

const ASIDE = 0.2;
const LEAST = 20; // examples below which nothing is set aside by itself

/** What is edited here of a file that was brought: {name, rows, aside}. */
export async function brought(file) {
  const rows = read(file.name, await textIn(file));
  return { name: file.name, rows, aside: rows.length >= LEAST && labelsOf(rows).size > 1 };
}

/** What to begin with: an earlier job and its files, or one file. Null for a file that is deleted. */
export async function earlierOf({ from, file }) {
  if (!from) return file ? { training: await get(`/v1/files/${file}`), validation: null } : null;
  const job = await get(`/v1/fine_tuning/jobs/${from}`);
  const found = (id) => (id ? get(`/v1/files/${id}`).catch((error) => { if (error.status === 404) return null; throw error; }) : null);
  return { job, training: await found(job.training_file), validation: await found(job.validation_file) };
}

/** Fetches those files to be corrected: {data, stored}. What was set aside before stays so, and what the training doubted is told. */
export async function fetched({ job, training, validation }) {
  const rowsOf = async (file) => (file ? read(file.filename, await getText(`/v1/files/${file.id}/content`)) : []);
  const [train, valid, doubts] = await Promise.all([rowsOf(training), rowsOf(validation), job?.status === "succeeded" ? doubtsOf(job, 2000).catch(() => []) : []]);
  valid.forEach((row) => { row.aside = true; });
  const lines = byLine(train);
  return {
    data: { name: training.filename, rows: [...train, ...valid], aside: false, fetched: true, doubts: new Map(doubts.map((doubt) => [lines[doubt.line - 1], doubt])) },
    stored: { training, validation, train: lines, valid: byLine(valid), made: new Set() },
  };
}

const parts = ({ rows, aside }) => (rows.some((row) => row.aside) ? [rows.filter((row) => !row.aside), rows.filter((row) => row.aside)] : aside ? split(rows, ASIDE) : [rows, []]);
const same = (rows, lines) => rows.length === lines.flat().length && lines.flat().every((row, index) => row.raw === rows[index].raw);

/**
 * Uploads the parts of what is edited, and takes back what they replace if it was uploaded here, too. A part that has not
 * changed stays the file that it is, so that jobs measured with it can be compared. Gives {training, validation, train, valid, made}.
 */
export async function store(data, before) {
  const [train, valid] = parts(data);
  const stem = data.name.replace(/(\.corrected)?\.[^.]*$/, "") + (data.fetched ? ".corrected" : "");
  const made = new Set();
  const send = async (name, rows, file, lines) => {
    if (file && same(rows, lines)) return [file, lines];
    try {
      const sent = await upload(name, write(rows));
      made.add(sent.id);
      return [sent, rows];
    } catch (error) {
      throw Object.assign(error, { rows }); // its lines are those of this part
    }
  };
  const [training, trainLines] = await send(`${stem}.jsonl`, train, before?.training, before?.train);
  try {
    const [validation, validLines] = valid.length ? await send(`${stem}.validation.jsonl`, valid, before?.validation, before?.valid) : [null, []];
    const replaced = [...(before?.made || [])].filter((id) => id !== training.id && id !== validation?.id);
    await Promise.all(replaced.map((id) => remove(`/v1/files/${id}`).catch(() => {})));
    return { training, validation, train: trainLines, valid: validLines, made: new Set([...made, ...[...(before?.made || [])].filter((id) => !replaced.includes(id))]) };
  } catch (error) {
    await Promise.all([...made].map((id) => remove(`/v1/files/${id}`).catch(() => {})));
    throw error;
  }
}
