import { html, useState } from "../core.js";
import { can } from "../api.js";
import { count, plural } from "../format.js";
import { contradictions, duplicates, labelOf, labels as labelsOf, relabelled, textOf } from "../examples.js";
import { Bones, Card, Icon, Problem, reasonOf } from "../parts.js";

const SHOWN = 25;
const NAMED = 30; // labels, above the findings

/** `busy` while another file is looked into, whose answers would be taken for those to this one. */
function Drop({ opening, busy, small }) {
  const [over, setOver] = useState(false);
  const take = (files) => files[0] && !busy && opening.run(files[0]);
  return html`<div class="stack tight"><${Problem} error=${opening.error} title="The file cannot be read" /><label class=${`drop ${over ? "over" : ""} ${small ? "small" : ""}`} onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${(event) => { event.preventDefault(); setOver(false); take(event.dataTransfer.files); }}>
    <${Icon} name="upload" /><span><strong>${small ? "Choose another file" : "Drop a file here, or choose one"}</strong>
      ${!small && html`<span class="hint">JSONL or CSV with the columns <code>text</code> and <code>label</code>; or prompts with completions, or chats.</span>`}</span>
    <input class="sr" type="file" disabled=${busy} accept=".jsonl,.csv,.json,.txt" onChange=${(event) => { take(event.target.files); event.target.value = ""; }} />
  </label></div>`;
}

/** Whether the label of a row can be chosen here. */
const labelled = (row, names) => labelOf(row) !== null || (names.length > 1 && typeof row.value?.text === "string");

/** One example that can be corrected where it stands. */
function Row({ row, place, names, change, drop, children }) {
  const label = labelOf(row);
  return html`<li class="example">
    <span class="soft num small">${place + 1}</span>
    <div class="grow stack tight"><span class="words">${textOf(row).slice(0, 400)}${row.aside && html` <span class="tag">set aside</span>`}</span>${children}</div>
    ${labelled(row, names) && html`<select aria-label=${`Label of example ${place + 1}`} value=${label ?? ""} onChange=${(event) => change(place, event.target.value)}>${label === null && html`<option value="" disabled selected>Choose a label</option>`}${names.map((name) => html`<option value=${name} selected=${name === label}>${name}</option>`)}</select>`}
    <button class="small danger" aria-label=${`Remove example ${place + 1}`} onClick=${() => drop([place])}>Remove</button>
  </li>`;
}

/** A finding of the server on one part of the rows, with the place among all rows that it speaks of. */
export function located(rows, part, problem, mentioned = part) {
  const places = new Map(rows.map((row, index) => [row, index]));
  const here = (of, line) => places.get(of?.[line - 1]);
  const told = (text) => text.replace(/\bline (\d+)/g, (said, line) => (here(mentioned, line) === undefined ? said : `line ${here(mentioned, line) + 1}`));
  const place = problem.line ? here(part, problem.line) : undefined;
  const { columns, broken } = rows[place] || {}; // of a row of a table that could not be read as one
  if (broken) return { ...problem, place, reason: "The quotes of the row that starts here are wrong.", remedy: "Quote a text as \"...\", write a quote inside it twice, and choose the file again." };
  if (columns) return { ...problem, place, reason: `The row has ${plural(columns[0], "column")}, the header has ${columns[1]}.`, remedy: "Put texts that contain the separator in double quotes, and choose the file again." };
  return { ...problem, reason: told(reasonOf(problem)), place };
}

/** Findings on parts of the rows that hold for all of them: a label that has one example in its part may have more in the other. */
export function holding(rows, findings) {
  const counts = labelsOf(rows);
  return findings.filter(({ place, reason }) => place === undefined || !reason.endsWith("has only this example.") || counts.get(labelOf(rows[place])) === 1);
}

/** What the server found, at the rows that it speaks of. */
function findingsOf(data, stored, error) {
  const at = (part, problem) => located(data.rows, part, problem);
  if (error?.problems?.length) {
    return error.problems.map((problem) => ({ ...at(error.rows, problem), severity: "error" }));
  }
  const warnings = (file, part) => (file?.sgg.warnings || []).map((problem) => ({ ...at(part, problem), severity: "warning" }));
  return stored && !error ? holding(data.rows, [...warnings(stored.training, stored.train), ...warnings(stored.validation, stored.valid)]) : [];
}

/** Rows that contradict each other, wherever the split puts them. */
const contradicting = (rows) => contradictions(rows).map(({ place, other }) => ({ place, severity: "warning", reason: `Example ${other + 1} says the same, but is labelled ${labelOf(rows[other])}.`, remedy: "Correct or remove one of them." }));

const ELSEWHERE = "Correct it in your file and choose the file again, or remove the example.";

/** Whether a finding asks for more than can be done to a row here, where labels are chosen and rows removed. */
const isElsewhere = ({ severity, field, remedy }, row, names) => severity === "error" && row && !(field === "label" && labelled(row, names)) && !remedy.includes("choose the file again");

/** One row for each example, however much is found in it. */
export function gathered(findings, rows, names) {
  const found = new Map();
  findings.forEach((finding, index) => {
    const key = finding.place ?? `x${index}`, said = `${finding.reason} ${finding.remedy}`;
    const one = found.get(key) || { ...finding, said: [], elsewhere: false };
    one.said.push(said);
    one.elsewhere ||= Boolean(isElsewhere(finding, rows[finding.place], names));
    found.set(key, one);
  });
  return [...found.values()].map(({ elsewhere, ...one }) => ({ ...one, said: elsewhere ? [...one.said, ELSEWHERE] : one.said }));
}

/** What stands above the findings. */
function summary(findings, rows) {
  const errors = findings.filter(({ severity }) => severity === "error");
  if (!rows.length) return "There are no examples in this file";
  if (!errors.length) return `${plural(findings.length, "thing")} to look at`;
  if (errors.some(({ place, line }) => place === undefined && !line)) return "This has to be changed first";
  return `${plural(errors.length, "line")} cannot be used as ${errors.length === 1 ? "it is" : "they are"}`;
}

function Findings({ findings, data, edits, unlisted }) {
  const [all, setAll] = useState(false);
  if (!findings.length) return null;
  findings = gathered(findings, data.rows, edits.names);
  return html`<div class="stack tight"><h3>${summary(findings, data.rows)}</h3>
    <ul class="examples">${findings.slice(0, all ? 200 : 8).map((finding) => {
      const row = data.rows[finding.place];
      const words = finding.said.map((said) => html`<span class=${`small ${finding.severity === "error" ? "bad" : "warned"}`}>${said}</span>`);
      return row ? html`<${Row} key=${finding.place} row=${row} place=${finding.place} ...${edits}>${words}<//>` : html`<li class="example">${words}</li>`;
    })}</ul>
    ${findings.length > 8 && !all && html`<div><button class="small" onClick=${() => setAll(true)}>Show all ${findings.length}</button></div>`}
    ${unlisted > 0 && html`<p class="soft small">${plural(unlisted, "more warning")} ${unlisted === 1 ? "is" : "are"} not listed here. Saved changes bring the next ones; <code>sgg files check</code> lists all.</p>`}</div>`;
}

function All({ data, edits }) {
  const [from, setFrom] = useState(0);
  return html`<details><summary>All ${plural(data.rows.length, "example")}</summary>
    <ul class="examples">${data.rows.slice(from, from + SHOWN).map((row, index) => html`<${Row} key=${from + index} row=${row} place=${from + index} ...${edits} />`)}</ul>
    <div class="row"><button class="small" disabled=${!from} onClick=${() => setFrom(from - SHOWN)}>Back</button><button class="small" disabled=${from + SHOWN >= data.rows.length} onClick=${() => setFrom(from + SHOWN)}>Next</button></div></details>`;
}

/** What the training of the earlier job said against labels, as long as they are what they were. */
const doubted = ({ rows, doubts }) => rows.flatMap((row, place) => (doubts?.has(row) ? [{ place, severity: "warning", reason: "The earlier training doubts the label.", remedy: doubts.get(row).reason }] : []));

/** The files that a job begins with again, before they are looked into. */
function Earlier({ earlier, fetching, opening }) {
  const { job, training, validation } = earlier;
  if (!training) return html`<${Card} title="Your examples" lead="The training file of the earlier job was deleted. Choose another one; the settings are kept."><${Drop} opening=${opening} busy=${opening.busy} /><//>`;
  return html`<${Card} title="Your examples" lead=${`${training.filename}, ${plural(training.sgg.examples || 0, "example")}${validation ? `; ${validation.filename} for validation` : ""}.${job ? " They are those of the earlier job." : ""}${job?.validation_file && !validation ? " Its validation file was deleted, so this job has none unless you set examples aside." : ""}`}>
    <div class="stack"><${Problem} error=${fetching.error} title="The file cannot be fetched" />
    <div class="row">${can("files:read") && can("files:write") && html`<button disabled=${fetching.busy || opening.busy} onClick=${() => fetching.run()}>Look at them and correct them</button>`}<${Drop} small opening=${opening} busy=${opening.busy || fetching.busy} /></div></div><//>`;
}

export function NewData({ data, stored, earlier, fetching, dirty, busy, error, opening, edit, save }) {
  if (!data) return earlier ? html`<${Earlier} earlier=${earlier} fetching=${fetching} opening=${opening} />` : html`<${Card} title="Your examples"><${Drop} opening=${opening} busy=${opening.busy} /><//>`;
  const counts = labelsOf(data.rows), names = [...counts.keys()].sort();
  const again = duplicates(data.rows), aside = data.rows.filter((row) => row.aside).length;
  const drop = (places) => { const gone = new Set(places); edit({ rows: data.rows.filter((row, index) => !gone.has(index)) }); };
  const change = (place, label) => edit({ rows: data.rows.map((row, index) => (index === place ? relabelled(row, label) : row)) });
  const edits = { names, change, drop };
  const found = dirty ? [] : findingsOf(data, stored, error);
  const unlisted = found.length && !error ? stored.training.sgg.warning_count - stored.training.sgg.warnings.length : 0;
  const findings = [...found, ...doubted(data), ...contradicting(data.rows).filter(({ place }) => !found.some((each) => each.place === place && each.reason.includes("label")))];
  const untold = error && !found.length && (!dirty || !error.problems?.length);
  return html`<${Card} title="Your examples" lead=${`${data.name}, ${plural(data.rows.length, "example")}${counts.size ? ` of ${plural(counts.size, "label")}` : ""}${aside ? `; ${count(aside)} of them set aside for validation` : ""}${data.fetched ? ". What you change is saved as a new file." : ""}`}>
    <div class="stack">
      ${counts.size > 0 && html`<div class="chips">${names.slice(0, NAMED).map((name) => html`<span class="tag"><bdi>${name}</bdi> <b class="num">${count(counts.get(name))}</b></span>`)}${names.length > NAMED && html`<span class="soft small">and ${count(names.length - NAMED)} more</span>`}</div>`}
      ${busy && html`<${Bones} heights=${[30]} label="Checking the file" />`}
      ${untold && html`<${Problem} error=${error} title=${error.problems?.length ? "The file cannot be used as it is" : "The examples are not saved"} />`}
      <${Findings} findings=${findings} data=${data} edits=${edits} unlisted=${unlisted} />
      ${again.length > 0 && html`<div class="row"><span>${plural(again.length, "example")} ${again.length === 1 ? "repeats" : "repeat"} an earlier one word for word.</span><button class="small" onClick=${() => drop(again)}>Remove ${again.length === 1 ? "it" : `all ${again.length}`}</button></div>`}
      ${!busy && stored && !dirty && !findings.length && !again.length && html`<p class="fine">No problems found.</p>`}
      ${counts.size > 1 && !aside && html`<label class="check"><input type="checkbox" checked=${data.aside} onChange=${(event) => edit({ aside: event.target.checked })} /><span>Set every fifth example aside for validation<span class="hint">They are not trained on, so their accuracy shows how the model does on sentences it has not seen.</span></span></label>`}
      ${data.rows.length > 0 && html`<${All} data=${data} edits=${edits} />`}
      <div class="row">${dirty && html`<button class="primary" disabled=${busy} onClick=${save}>Save the changes and check again</button>`}<${Drop} small opening=${opening} busy=${opening.busy || busy} /></div>
    </div><//>`;
}
