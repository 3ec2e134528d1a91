import { html, useState } from "../core.js";
import { can, get, post, remove } from "../api.js";
import { useAction, useEvery, useRead } from "../live.js";
import { bytes, clock, count, date, duration, figure, percent } from "../format.js";
import { Bar, Bones, Card, Confirm, Page, Problem, Status, Table, ToTheJobs } from "../parts.js";
import { useCurves } from "../curves.js";
import { useEvents } from "../events.js";
import { JobCurves } from "./job_curves.js";
import { jobTitle } from "./jobs.js";
import { Report, Suspicious } from "./report.js";

const over = (job) => ["succeeded", "failed", "cancelled"].includes(job.status);
const until = (spread) => (spread ? `${duration(spread.early - Date.now() / 1000)} to ${duration(spread.late - Date.now() / 1000)}` : null);

/** Why a job has more than one attempt. */
export function attemptsIn(history) {
  const earlier = (history || []).slice(0, -1);
  return earlier.length && earlier.every(({ state }) => state === "paused") ? "paused and resumed" : "a worker took it up again";
}

function Facts({ job }) {
  const { sgg } = job, { metrics, forecast } = sgg;
  const facts = [];
  if (job.status === "queued") {
    facts.push(["In the queue", sgg.queue_position === 1 ? "next" : `number ${sgg.queue_position}`, forecast?.start ? (forecast.start.late - Date.now() / 1000 < 2 ? "begins at once" : `begins in ${until(forecast.start)}`) : "start not known yet"]);
  }
  if (job.status === "running" && !sgg.total_steps) facts.push(["Getting ready", "loading", "the worker reads the base model and the examples"]);
  if (sgg.total_steps) facts.push(["Step", `${count(sgg.step)} of ${count(sgg.total_steps)}`, metrics.seconds ? `${figure(metrics.seconds)} s a step` : null]);
  if (job.status === "running" && forecast?.end) facts.push(["Time left", duration(forecast.end.likely - Date.now() / 1000), `likely ${until(forecast.end)}`]);
  if (metrics.train_loss != null) facts.push(["Training loss", figure(metrics.train_loss)]);
  if (metrics.valid_accuracy != null) facts.push(["Validation accuracy", percent(metrics.valid_accuracy, 1), metrics.valid_loss != null ? `loss ${figure(metrics.valid_loss)}` : null]);
  if (job.finished_at) facts.push(["Took", duration(job.finished_at - job.created_at), date(job.finished_at)]);
  if (sgg.attempts > 1) facts.push(["Attempts", count(sgg.attempts), attemptsIn(sgg.attempt_history)]);
  return html`<dl class="facts">${facts.map(([name, value, more]) => html`<div><dt>${name}</dt><dd>${value}${more && html`<small>${more}</small>`}</dd></div>`)}</dl>`;
}

/** Reads out what changes, at tenths of the way, so that nobody is flooded. */
function Announcer({ job }) {
  const tenth = Math.floor(job.sgg.progress * 10) * 10;
  return html`<p class="sr" aria-live="polite">The job is ${job.status}${job.status === "running" ? `, ${tenth} percent done` : ""}.</p>`;
}

function Actions({ job, changed }) {
  const act = useAction(async (verb) => { await post(`/v1/fine_tuning/jobs/${job.id}/${verb}`); await changed(); });
  const drop = useAction(async () => {
    const here = location.hash;
    await remove(`/v1/fine_tuning/jobs/${job.id}`).catch((error) => { if (error.status !== 404) throw error; }); // somebody was quicker
    if (location.hash === here) location.hash = "#/jobs";
  });
  if (!can("jobs:write")) return null;
  const stopping = job.sgg.cancel_requested || job.sgg.pause_requested;
  return html`<div class="stack tight"><div class="row">
    ${["queued", "running"].includes(job.status) && html`<button disabled=${act.busy || stopping} onClick=${() => act.run("pause")}>Pause</button>`}
    ${(job.status === "paused" || (job.status === "running" && job.sgg.pause_requested)) && html`<button class="primary" disabled=${act.busy} onClick=${() => act.run("resume")}>Resume</button>`}
    ${!over(job) && html`<${Confirm} label="Cancel" disabled=${act.busy || job.sgg.cancel_requested} title="Cancel this job?" text="It stops before its next step and keeps its newest checkpoint. A cancelled job cannot be resumed; pause it if you may want to." yes="Yes, cancel it" onYes=${() => act.run("cancel")} />`}
    ${job.fine_tuned_model && job.sgg.artifacts.some((file) => file.filename === "adapter.tar.gz") && can("models:try") && html`<a class="button primary" href=${`#/try?model=${encodeURIComponent(job.fine_tuned_model)}`}>Try it</a>`}
    <a class="button" href=${`#/new?from=${job.id}`}>Run again with changes</a>
    ${over(job) && html`<${Confirm} label="Delete" disabled=${drop.busy} title="Delete this job?" text="Its adapter, checkpoints, figures and report are deleted too, and cannot be restored. The data files stay." yes="Yes, delete it" onYes=${drop.run} />`}
  </div><${Problem} error=${drop.error || act.error} /></div>`;
}

function Events({ events }) {
  const [figures, setFigures] = useState(false);
  const shown = events.filter((event) => figures || event.type === "message").reverse();
  return html`<${Card} title="Events" extra=${html`<label class="check small"><input type="checkbox" checked=${figures} onChange=${(event) => setFigures(event.target.checked)} />with figures</label>`}>
    ${shown.length ? html`<ol class="events scroll" tabindex="0" aria-label="Events, newest first">${shown.map((event) => html`<li key=${event.id}><time class="soft num" datetime=${new Date(event.created_at * 1000).toISOString()}>${clock(event.created_at)}</time><span class=${event.level}>${event.message}</span></li>`)}</ol>` : html`<p class="soft">Nothing has happened yet.</p>`}
  <//>`;
}

const LISTED = 50; // checkpoints

const Download = ({ file, children }) => html`<a href=${`/v1/files/${file.file_id}/content`} download=${file.filename}>${children || file.filename}</a>`;

function Checkpoints({ job }) {
  const newest = job.sgg.last_checkpoint?.id;
  const { value: page, error, loading, again } = useRead(() => get(`/v1/fine_tuning/jobs/${job.id}/checkpoints?limit=${LISTED}`), [job.id], [newest]);
  return html`<${Card} title="Checkpoints" lead="The adapter as it was after that step. Each checkpoint is a model with its own name: try it, download it, or start another job from it.">
    <${Problem} error=${error} again=${again} title="The checkpoints cannot be shown" />${loading && html`<${Bones} label="Loading the checkpoints" />`}
    ${page?.data.length > 0 && html`<${Table} label="Checkpoints" columns=${[["Step", "num"], ["Training loss", "num"], ["Validation", "num"], ["Files"]]} rows=${page.data.map((each) => ({ key: each.id, cells: [
      each.step_number,
      figure(each.metrics.train_loss),
      each.metrics.full_valid_mean_token_accuracy != null ? percent(each.metrics.full_valid_mean_token_accuracy, 1) : figure(each.metrics.full_valid_loss),
      each.sgg.files.map((file, index) => html`${index > 0 && " · "}<${Download} file=${file}>${file.filename.endsWith(".json") ? "configuration" : `weights (${bytes(file.bytes)})`}<//>`),
    ], note: each.sgg.files.length > 0 && html`<code>${each.fine_tuned_model_checkpoint}</code>${can("models:try") && html` · <a class="nowrap" href=${`#/try?model=${encodeURIComponent(each.fine_tuned_model_checkpoint)}`}>Try it<span class="sr"> as of step ${each.step_number}</span></a>`}` }))} />`}
    ${page?.has_more && html`<p class="soft small">The newest ${LISTED} are listed.</p>`}
    ${page?.data.length === 0 && html`<p class="soft">${over(job) ? "None is kept." : "None yet. The first is saved after about a quarter of the steps, at most 50, unless the job's settings differ."}</p>`}
  <//>`;
}

function Results({ job }) {
  if (!job.sgg.artifacts.length) return null;
  const words = { "metrics.csv": "Figures of every step", "adapter.tar.gz": "The adapter, as PEFT loads it" };
  return html`<${Card} title="Downloads"><ul class="stack tight">${job.sgg.artifacts.map((file) => html`<li class="row between whole"><span><${Download} file=${file} /> <span class="soft small">${words[file.filename]}</span></span><span class="soft small num" title=${`sha256 ${file.sha256}`}>${bytes(file.bytes)}</span></li>`)}</ul>
    <p class="soft small">The name of the model, for clients of the API: <code>${job.fine_tuned_model}</code></p><//>`;
}

function flat(values, path = "") {
  return Object.entries(values).flatMap(([key, value]) => (value && typeof value === "object" && !Array.isArray(value) ? flat(value, `${path}${key}.`) : [[path + key, value]]));
}

const FileLink = ({ id }) => html`<a class="cut" href=${`#/files?file=${id}`} title=${id}>${id}</a>`;

function Settings({ job }) {
  const settings = job.method[job.method.type];
  const rows = flat(settings.hyperparameters).filter(([, value]) => value !== null);
  const pairs = [["Base model", job.model], ["Method", job.method.type === "sgg" ? "structured gradient guidance" : "plain LoRA"], ["Seed", job.seed], ["Training file", job.sgg.kind ? html`<${FileLink} id=${job.training_file} />` : html`<span class="cut" title=${job.training_file}>${job.training_file}</span><span class="soft small">It is deleted.</span>`]];
  if (job.validation_file) pairs.push(["Validation file", html`<${FileLink} id=${job.validation_file} />`]);
  if (settings.start_from) pairs.push(["Starts from", settings.start_from]);
  if (job.sgg.sources.length) pairs.push(["Sources", job.sgg.sources.join(", ")]);
  return html`<${Card} title="Settings"><div class="stack"><dl class="pairs">${pairs.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>
    <details><summary>All ${rows.length} hyperparameters</summary><dl class="pairs mono">${rows.map(([name, value]) => html`<dt>${name}</dt><dd>${String(value)}</dd>`)}</dl></details></div><//>`;
}

export function Job({ id }) {
  const { value: job, error, again } = useRead(() => get(`/v1/fine_tuning/jobs/${encodeURIComponent(id)}`), [id]);
  const running = job && !over(job) && job.status !== "paused";
  useEvery(running ? 500 : job && !over(job) ? 3000 : 0, again, [again]);
  const events = useEvents(error?.status === 404 ? undefined : id, again);
  const figures = useCurves(id, !!running, job?.sgg.attempts || 0);
  const { value: base } = useRead(() => (job ? get(`/v1/models/${encodeURIComponent(job.model)}`) : null), [job?.model]);
  const untold = job?.status === "succeeded" && !job.sgg.kind;
  const { value: kind } = useRead(() => (untold ? get(`/v1/fine_tuning/jobs/${id}/report?format=json`).then((report) => report.kind) : null), [id, untold]);
  if (!job) return html`<${Page} title="Job"><${Problem} error=${error} again=${error?.status !== 404 && again}>${error?.status === 404 && html`<${ToTheJobs} />`}<//>${!error && html`<${Bones} heights=${[60, 220, 220]} label="Loading the job" />`}<//>`;
  return html`<${Page} title=${jobTitle(job)} lead=${html`<span class="row"><${Status} job=${job} /><span class="mono small">${job.id}</span></span>`} actions=${html`<${Actions} job=${job} changed=${again} />`}>
    <${Announcer} job=${job} />
    ${job.error && html`<div class="notice bad" role="alert"><strong>${job.sgg.failure?.fault === "user" ? "The training could not use these data or settings" : "The service failed this job"}</strong><p>${job.error.message}</p><p>${job.sgg.failure?.remedy}</p></div>`}
    <${Card}><div class="stack">${!over(job) && html`<${Bar} share=${job.sgg.progress} label="Progress of the training" />`}<${Facts} job=${job} /></div><//>
    ${job.status === "succeeded" && html`<${Report} job=${job} />`}
    <${JobCurves} job=${job} figures=${figures} base=${base?.sgg.kind} kind=${kind} />
    <div class="grid2"><div class="stack"><${Results} job=${job} />${job.status === "succeeded" && html`<${Suspicious} job=${job} />`}<${Events} events=${events} /></div><div class="stack"><${Checkpoints} job=${job} /><${Settings} job=${job} /></div></div>
  <//>`;
}
