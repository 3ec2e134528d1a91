import { html } from "../core.js";
import { can, get } from "../api.js";
import { useEvery, useRead } from "../live.js";
import { ago, duration } from "../format.js";
import { Bones, Card, Page, Problem } from "../parts.js";
import { jobTitle, Outlook } from "./jobs.js";

const words = { database: ["Database", "jobs, events and figures"], object_store: ["Storage", "files, checkpoints and adapters"], reaper: ["Reaper", "finds jobs whose worker was lost"], worker: ["Worker", "trains, and answers trials"], broker: ["Broker", "wakes the workers up"] };

const states = { idle: ["Idle", "succeeded"], busy: ["At work", "running"], draining: ["Ends soon", "paused"], lost: ["Lost", "failed"] };
const takesJobs = (worker) => worker.status === "idle" || worker.status === "busy";

async function look() {
  const [running, queued] = await Promise.all(["running", "queued"].map((status) => get(`/v1/fine_tuning/jobs?status=${status}&limit=100`)));
  const answer = await fetch("/health/ready", { cache: "no-store" }); // a part that is away is an answer, too: 503
  const health = await answer.json();
  const workers = can("admin") ? (await get("/v1/organization/workers")).data : null;
  const details = await Promise.all(running.data.slice(0, 10).map((job) => get(`/v1/fine_tuning/jobs/${job.id}`)));
  return { health, workers, running: details, queued: queued.data };
}

export function System() {
  const { value, error, again } = useRead(look, []);
  useEvery(3000, again, [again]);
  if (!value) return html`<${Page} title="System"><${Problem} error=${error} again=${again} />${!error && html`<${Bones} />`}<//>`;
  const { health, workers, running, queued } = value;
  return html`<${Page} title="System" lead="Whether everything that jobs need is working.">
    <${Card} title="Parts"><ul class="parts" aria-live="polite">${Object.entries(health.checks).map(([part, state]) => html`<li class="row between"><div><b>${words[part]?.[0] || part}</b> <span class="soft">${words[part]?.[1]}</span></div>
      <span class=${`badge ${state === "ok" ? "succeeded" : "failed"}`}>${state === "ok" ? "Works" : state}</span></li>`)}</ul><//>
    ${workers && html`<${Card} title="Workers" lead=${workers.some(takesJobs) ? null : "No worker is running, so queued jobs wait. Start one with: sgg worker"}>${workers.length > 0 && html`<ul class="parts">${workers.map((worker) => html`<li class="row between"><div class="stack tight"><b class="cut">${worker.host}, process ${worker.pid}</b>
      <span class="soft small">${worker.job_ids.length > 0 ? html`runs ${worker.job_ids.map((id, number) => html`${number > 0 ? ", " : ""}<a href=${`#/jobs/${id}`}>${id}</a>`)}` : `started ${ago(worker.started_at)}`}${worker.status === "lost" ? `, last seen ${ago(worker.seen_at)}` : ""}</span></div>
      <span class=${`badge ${states[worker.status][1]}`}>${states[worker.status][0]}</span></li>`)}</ul>`}<//>`}
    <${Card} title="At work" lead=${running.length ? null : "No job runs now."}>${running.length > 0 && html`<ul class="parts">${running.map((job) => {
      const attempt = job.sgg.attempt_history?.at(-1);
      return html`<li class="row between"><a href=${`#/jobs/${job.id}`}>${jobTitle(job)}</a><span class="soft small">${attempt ? `attempt ${attempt.number}, for ${duration(attempt.seconds)}` : ""}</span><div class="grow small"><${Outlook} job=${job} /></div></li>`;
    })}</ul>`}<//>
    <${Card} title="In the queue" lead=${queued.length ? null : "The queue is empty."}>${queued.length > 0 && html`<ul class="parts">${[...queued].sort((a, b) => a.sgg.queue_position - b.sgg.queue_position).map((job) => html`<li class="row between"><a href=${`#/jobs/${job.id}`}>${jobTitle(job)}</a><span class="soft small"><${Outlook} job=${job} /></span></li>`)}</ul>`}<//>
  <//>`;
}
