import { html } from "../core.js";
import { can, get, getText } from "../api.js";
import { byLine, read, textOf } from "../examples.js";
import { useRead } from "../live.js";
import { count, figure, percent, points, signed } from "../format.js";
import { Bones, Card, Problem, Table } from "../parts.js";

const names = { zero_shot: "the base model as it comes", linear_probe: "a linear probe on the base model", start: "the weights it started from", in_context: "the base model with examples in its prompt", plain_lora: "plain LoRA by its own defaults, with the same seed" };
const MOST_CONFUSED = 12; // labels, as in sgg_core/card.py: a wider matrix cannot be read
const DOUBTFUL = 0.75; // a right label with less than this was found with doubts

/** The interval of a difference, in words where there is none to speak of. */
export const interval = ({ difference, low, high }, written) => (difference === 0 && low === 0 && high === 0 ? "every result is the same" : `${written(low)} to ${written(high)}`);

export function Baselines({ report }) {
  if (!report.baselines?.length) return null;
  const texts = report.kind !== "classification", difference = texts ? signed : points;
  return html`<${Table} className="inset" label="Compared with" columns=${[["Measured against"], [`Its ${texts ? "loss" : "accuracy"}`, "num"], [`Difference, ${texts ? "a token" : "points"}`, "num nowrap"]]} rows=${report.baselines.map(({ name, accuracy, loss, comparison }) => ({ cells: [
    names[name] || name,
    texts ? figure(loss) : percent(accuracy, 1),
    html`${difference(comparison.difference)}<div class="soft small">${interval(comparison, difference)}</div>`,
  ], note: comparison.verdict }))} />`;
}

/** What folds say, and of each learning rate. */
function Folds({ found }) {
  if (!found) return null;
  return html`<div class="stack tight"><h3>Cross-validation</h3><p class="small">${found.verdict}</p>
    ${found.rates.length > 1 && html`<${Table} className="inset" label="Learning rates in cross-validation" columns=${[["Learning rate", "num"], ["Accuracy", "num"], ["Loss", "num"], ["Outcome"]]} rows=${found.rates.map((each) => ({ cells: [
      String(each.learning_rate), each.accuracy == null ? "-" : percent(each.accuracy, 1), each.loss == null ? "-" : figure(each.loss), each.loss == null ? "diverged" : each.learning_rate === found.learning_rate ? "kept" : "–",
    ] }))} />`}</div>`;
}

/** What each seed with each learning rate reached. */
function Replicas({ found }) {
  if (!found) return null;
  const kept = (run) => run.seed === found.kept_seed && run.learning_rate === found.kept_learning_rate;
  return html`<div class="stack tight"><h3>Each training</h3><p class="small">${found.verdict}</p>
    <${Table} className="inset" label="Each training" columns=${[["Learning rate", "num"], ["Seed", "num"], ["Accuracy", "num"], ["Loss", "num"], ["Outcome"]]} rows=${found.runs.map((run) => ({ cells: [
      String(run.learning_rate), run.seed, run.valid_accuracy == null ? "-" : percent(run.valid_accuracy, 1), run.valid_loss == null ? "-" : figure(run.valid_loss), run.diverged ? "diverged" : kept(run) ? "kept" : "–",
    ] }))} /></div>`;
}

/** Which label was said for which; the darker, the more. */
export function Confusion({ confusion, whole }) {
  if (!confusion) return null;
  if (confusion.labels.length > MOST_CONFUSED) return html`<p class="soft small">Which of the ${count(confusion.labels.length)} labels was given for which is in <a href=${whole} target="_blank" rel="noopener">report.json</a>.</p>`;
  const most = confusion.counts.flat().reduce((high, number) => Math.max(high, number), 1);
  return html`<div class="stack tight"><h3>Which label was given for which</h3><div class="table inset" tabindex="0" role="group" aria-label="Table"><table class="matrix"><caption class="sr">Rows are the true labels, columns the given ones</caption>
    <thead><tr><th>true label</th>${confusion.labels.map((label) => html`<th scope="col" class="num">${label}</th>`)}</tr></thead>
    <tbody>${confusion.counts.map((row, truth) => html`<tr><th scope="row">${confusion.labels[truth]}</th>${row.map((number, guess) => html`<td class="num" data-depth=${Math.ceil((number / most) * 4)} data-right=${truth === guess}>${number}</td>`)}</tr>`)}</tbody></table></div></div>`;
}

function Hardest({ report, texts }) {
  if (!report.hardest?.length) return null;
  return html`<details><summary>The hardest examples</summary><ul class="examples">${report.hardest.map((each) => html`<li class="example"><span class="soft num small">${each.line}</span>
    <div class="grow stack tight"><span class="words">${texts?.[each.line - 1] ?? `Line ${each.line} of the validation file`}</span>
    <span class="small soft">labelled <b>${each.label}</b>, ${each.predicted === each.label ? `predicted correctly${each.probability < DOUBTFUL ? " but with doubts" : ""}` : html`predicted as <b>${each.predicted}</b>`}; the right label got ${percent(each.probability, 0)}</span></div></li>`)}</ul></details>`;
}

async function textsOf(job, report) {
  if (!job.validation_file || !report.hardest?.length) return null;
  const [{ filename }, content] = await Promise.all([get(`/v1/files/${job.validation_file}`), getText(`/v1/files/${job.validation_file}/content`)]);
  return byLine(read(filename, content)).map(textOf);
}

export function Report({ job }) {
  const { value, error, again } = useRead(async () => {
    const report = await get(`/v1/fine_tuning/jobs/${job.id}/report?format=json`);
    return { report, texts: await textsOf(job, report).catch(() => null) };
  }, [job.id, job.status]);
  if (!value) return html`<${Card} title="What it is worth"><${Problem} error=${error} again=${again} title="The report cannot be shown" />${!error && html`<${Bones} label="Loading the report" />`}<//>`;
  const { report, texts } = value, { evaluation } = report;
  const page = (format) => `/v1/fine_tuning/jobs/${job.id}/report?format=${format}`;
  return html`<${Card} title="What it is worth" extra=${html`<span class="small"><a href=${page("html")} target="_blank" rel="noopener">whole report</a> · <a href=${page("markdown")} download="README.md">model card</a></span>`}>
    <div class="stack">
      ${evaluation?.accuracy != null && html`<p>Right on <b>${percent(evaluation.accuracy, 1)}</b> of ${report.kind === "classification" ? "" : "the tokens of "}${evaluation.examples} validation examples${report.validation_examples_seen ? html`, <b>${report.validation_examples_seen} of them also in the training file</b>, so this figure is too good` : ""}.${report.calibration ? ` Its probabilities are off by ${percent(report.calibration.expected_error, 0)} on average.` : ""}</p>`}
      <${Baselines} report=${report} />
      <${Folds} found=${report.cross_validation} />
      <${Replicas} found=${report.replicas} />
      <${Confusion} confusion=${evaluation?.confusion} whole=${page("json")} />
      <${Hardest} report=${report} texts=${texts} />
      ${report.explanations?.length > 0 && html`<ul class="stack tight small">${report.explanations.map((sentence) => html`<li>${sentence}</li>`)}</ul>`}
    </div><//>`;
}

/** Training examples that something speaks against; the server ranks all of them, also those that nothing does. */
export async function doubtsOf(job, limit) {
  const { data } = await get(`/v1/fine_tuning/jobs/${job.id}/examples?limit=${limit}`).catch((error) => {
    if (error.code === "no_report") return { data: [] }; // these labels were not judged
    throw error;
  });
  return data.filter((each) => each.predicted_label !== each.label || each.gradient_agreement < 0);
}

const STRONG = 0.95; // `suspicion` is a rank among the examples, not a probability
export const doubtIn = (suspicion) => (suspicion >= STRONG ? "strong doubt" : "some doubt");

/** Examples whose label may be wrong, as the training saw it. */
export function Suspicious({ job }) {
  const { value: doubted, error, again } = useRead(() => doubtsOf(job, 10), [job.id, job.status]);
  if (!doubted) return html`<${Problem} error=${error} again=${again} title="The examples to look at again cannot be shown" />`;
  if (!doubted.length) return null;
  return html`<${Card} title="Examples to look at again" lead="Their labels do not fit what the other examples say." extra=${can("files:write") && doubted.some((each) => each.text !== null) && html`<a href=${`#/new?from=${job.id}&correct`}>Correct them and run again</a>`}><ul class="examples">${doubted.map((each) => html`<li class="example"><span class="soft num small">${each.line}</span>
    <div class="grow stack tight"><span class="words">${each.text ?? `Line ${each.line} of the training file, which is deleted`}</span><span class="small soft">labelled <b>${each.label}</b>. ${each.reason}</span></div><span class="badge warn">${doubtIn(each.suspicion)}</span></li>`)}</ul><//>`;
}
