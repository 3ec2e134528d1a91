import { html } from "../core.js";
import { get } from "../api.js";
import { useRead } from "../live.js";
import { figure, percent, points, signed } from "../format.js";
import { Bones, Card, Empty, Page, Problem, Status, Table, ToTheJobs } from "../parts.js";
import { Chart, spanning } from "../charts.js";
import { compares } from "./job_curves.js";
import { jobTitle } from "./jobs.js";
import { interval } from "./report.js";

const charts = [["train_loss", "Training loss"], ["valid_loss", "Validation loss"], ["valid_accuracy", "Validation accuracy"], ["gradient_norm", "Length of the gradient, |g|"], ["reference_cosine", "Cosine to the reference"], ["source_cosine", "Alignment with the sources"]];
const shown = (value) => (value === null || value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value));

const difference = (pair, value) => (pair.metric === "accuracy" ? `${points(value)} points` : `${signed(value)} a token`);

const intervalOf = (pair) => `${pair.low === 0 && pair.high === 0 ? "" : "95 % interval "}${interval(pair, (value) => difference(pair, value))}`;

/** A verdict with the letters that the jobs have on this page, in place of their models' names and their ids. */
export const lettered = (verdict, jobs, letters) => jobs.reduce((told, { id, name }, index) => told.replaceAll(`"${name}"`, letters[index]).replaceAll(id, letters[index]), verdict);

const NARROWEST = 0.1; // a range of accuracies, so that a few examples do not look like much
const ofShares = (plot, low, high) => spanning(low, high, NARROWEST);

/** Whether some of these jobs are trained by comparing examples and others are not; `kinds` are those of base models. */
export const mixed = (jobs, kinds) => new Set(jobs.map((job) => compares(job, kinds[job.model]))).size > 1;

async function read(named) {
  const found = await get(`/v1/fine_tuning/compare?jobs=${encodeURIComponent(named)}`);
  const [models, ...jobs] = await Promise.all([get("/v1/models"), ...found.jobs.map(({ id }) => get(`/v1/fine_tuning/jobs/${id}`))]);
  return { ...found, mixed: mixed(jobs, Object.fromEntries(models.data.map((model) => [model.id, model.sgg.kind]))) };
}

export function Compare({ search }) {
  const jobs = search.jobs || "";
  const { value, error, again } = useRead(() => (jobs ? read(jobs) : null), [jobs]);
  if (!jobs) return html`<${Page} title="Compare"><${Empty} icon="compare" title="Choose jobs to compare" actions=${html`<a class="button primary" href="#/jobs">To the jobs</a>`}>Tick two or more of them in the list. You see their curves in one picture, the settings that differ, and whether one is better than the other.<//><//>`;
  const elsewhere = [400, 404].includes(error?.status); // other jobs have to be chosen
  if (!value) return html`<${Page} title="Compare"><${Problem} error=${error} again=${!elsewhere && again}>${elsewhere && html`<${ToTheJobs} />`}<//>${!error && html`<${Bones} heights=${[120, 220]} />`}<//>`;
  const letters = value.jobs.map((_, index) => "ABCDEFGH"[index] || `${index + 1}`);
  const short = new Map(value.jobs.map((job, index) => [job.id, letters[index]]));
  const drawn = charts.filter(([name]) => Object.values(value.curves[name] || {}).some((curve) => curve.length));
  return html`<${Page} title="Compare" lead=${`${value.jobs.length} jobs side by side`}>
    <${Card} title="The jobs"><${Table} label="The jobs" columns=${[["Job"], ["State"], ["Validation accuracy", "num"], ["Validation loss", "num"]]} rows=${value.jobs.map((job, index) => ({ key: job.id, cells: [
      html`<b class=${`c${index % 4}`}>${short.get(job.id)}</b>  <a href=${`#/jobs/${job.id}`}>${jobTitle(job)}</a><div class="soft small mono">${job.name}</div>`,
      html`<${Status} job=${job} />`,
      job.valid_accuracy == null ? "–" : percent(job.valid_accuracy, 1),
      figure(job.valid_loss),
    ] }))} /><//>
    ${value.paired.length > 0 && html`<${Card} title="Is one better?" lead="On the same validation examples, answer by answer."><ul class="stack">${value.paired.map((pair) => html`<li class="stack tight"><div><b>${short.get(pair.a)}</b> minus <b>${short.get(pair.b)}</b>${pair.difference == null ? "" : html`: <b class="num">${difference(pair, pair.difference)}</b> <span class="soft num">(${intervalOf(pair)}, ${pair.items} examples)</span>`}</div><span class="soft">${lettered(pair.verdict, value.jobs, letters)}</span></li>`)}</ul><//>`}
    <${Card} title="Settings that differ">${value.spec_differences.length ? html`<${Table} label="Settings that differ" columns=${[["Setting", "mono"], ...value.jobs.map((job) => [short.get(job.id)])]} rows=${value.spec_differences.map((each) => ({ key: each.field, cells: [each.field, ...value.jobs.map((job) => shown(each.values[job.id]))] }))} />` : html`<p class="soft">None: their settings are the same.</p>`}<//>
    <div class="grid2">${drawn.map(([name, title]) => html`<${Chart} key=${name} title=${title} sync="compare" log=${name === "gradient_norm"} range=${name === "valid_accuracy" ? ofShares : undefined} text=${name === "train_loss" && value.mixed ? "These losses cannot be compared: an encoder that compares examples has another objective. Look at how each one moves, not at how high it is." : ""} series=${value.jobs.map((job, index) => ({ label: short.get(job.id), colour: index % 4, points: name.startsWith("valid"), steps: (value.curves[name][job.id] || []).map(([step]) => step), values: (value.curves[name][job.id] || []).map(([, number]) => number) }))} />`)}</div>
  <//>`;
}
