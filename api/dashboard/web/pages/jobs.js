import { html, useEffect, useLayoutEffect, useState } from "../core.js";
import { can, get, query } from "../api.js";
import { useEvery, useRead } from "../live.js";
import { ago, duration, figure, percent, plural } from "../format.js";
import { Bar, Bones, Empty, Icon, Page, Problem, Status } from "../parts.js";
import { Spark } from "../charts.js";

const PAGE = 20;
const MOST_COMPARED = 8; // as the server has it
const filters = [["", "All"], ["running", "Running"], ["queued", "Queued"], ["paused", "Paused"], ["succeeded", "Succeeded"], ["failed", "Failed"], ["cancelled", "Cancelled"]];
const live = (job) => ["queued", "running", "validating_files"].includes(job.status);

/** What people call a job: as they named it, or else its base model with the end of its id, as its own model's name has it. */
export const jobTitle = (job) => job.metadata.name || (job.sgg || job).suffix || `${job.model} ${job.id.slice(-8)}`;

/** What is typed to filter by, as [name, value]: `source=http://a:80` has one sign that parts them, the first. */
export function pairOf(text) {
  const [, name = "", value = ""] = text.match(/^([^=:]*)[=:](.*)$/) || [];
  return [name.trim(), value.trim()];
}

/** What one sees of a job at a glance: how far, how long, how good. */
export function Outlook({ job }) {
  const { sgg } = job;
  if (job.status === "queued" && sgg.workers === 0) return html`<span>Waits for a worker: none is running</span>`;
  if (job.status === "queued") return html`<span>${sgg.queue_position === 1 ? "Next in the queue" : `Number ${sgg.queue_position} in the queue`}</span>`;
  if (job.status === "failed") return html`<span class="cut">${job.error.message}</span>`;
  if (job.status === "running" || job.status === "paused") {
    const left = job.estimated_finish && Math.max(0, job.estimated_finish - Date.now() / 1000);
    return html`<div class="stack tight"><${Bar} share=${sgg.progress} label="Progress" />
      <span class="num">${sgg.total_steps ? `Step ${sgg.step} of ${sgg.total_steps}` : "Getting ready"}${left !== null && job.status === "running" ? `, ${duration(left)} left` : ""}</span></div>`;
  }
  const { valid_accuracy: accuracy, train_loss: loss } = sgg.metrics;
  return html`<span class="num">${accuracy != null ? `Validation accuracy ${percent(accuracy, 1)}` : loss != null ? `Loss ${figure(loss)}` : `${plural(sgg.step, "step")}`}</span>`;
}

function JobRow({ job, picked, pick }) {
  const [curve, setCurve] = useState();
  useEffect(() => {
    if (!job.sgg.step) return undefined;
    let over = false;
    get(`/v1/fine_tuning/jobs/${job.id}/metrics?names=train_loss&resolution=60`).then((found) => { if (!over) setCurve(found.data[0].values); }).catch(() => {});
    return () => { over = true; };
  }, [job.id, job.sgg.step]);
  const title = jobTitle(job);
  return html`<li class="card job">
    <div class="name stack tight"><div class="row"><a class="cut" href=${`#/jobs/${job.id}`}>${title}</a><${Status} job=${job} /></div>
      <span class="soft small cut">${job.model} · ${job.method.type === "sgg" ? "guided" : "plain LoRA"} · ${ago(job.created_at)}</span>
      ${Object.keys(job.metadata).length > 0 && html`<span class="chips">${Object.entries(job.metadata).filter(([key]) => key !== "name").map(([key, value]) => html`<span class="tag cut">${key}: ${value}</span>`)}</span>`}</div>
    <${Spark} values=${curve} label=${`Loss of ${title}`} />
    <div class="state small soft"><${Outlook} job=${job} /></div>
    <input class="pick" type="checkbox" aria-label=${`Choose ${title} to compare`} checked=${picked} onChange=${() => pick(job.id)} />
  </li>`;
}

export function Jobs({ search }) {
  const [status, setStatus] = useState(search.status || "");
  const [pair, setPair] = useState(search.metadata || "");
  const [limit, setLimit] = useState(PAGE);
  const [picked, setPicked] = useState([]);
  const [key, value] = pairOf(pair);
  // Both before the page is seen: a filter that is chosen at once stays, and who moves on at once is not held.
  useLayoutEffect(() => {
    setStatus(search.status || "");
    setPair(search.metadata || "");
  }, [search]);
  // The address has the filters, so that whoever comes back to it, or sends it to others, sees the same jobs.
  useLayoutEffect(() => {
    try {
      history.replaceState(null, "", `#/jobs${query({ status, metadata: pair })}`);
    } catch {} // Safari refuses more than a hundred in half a minute
  }, [status, pair]);
  const filter = { status, ...(key && value && { [`metadata[${key}]`]: value }) };
  const { value: page, error, again } = useRead(() => get(`/v1/fine_tuning/jobs${query({ limit, ...filter })}`), [query(filter)], [limit]);
  const jobs = page?.data || [];
  useEvery(jobs.some(live) ? 1000 : 4000, again, [again]);
  const pick = (id) => setPicked((now) => (now.includes(id) ? now.filter((each) => each !== id) : [...now, id]));
  const narrowed = status || (key && value);
  const create = can("jobs:write") && html`<a class="button primary" href="#/new"><${Icon} name="new" />New job</a>`;
  const compare = picked.length > MOST_COMPARED ? html`<span>At most ${MOST_COMPARED} jobs can be compared; ${picked.length} are chosen.</span>`
    : picked.length > 1 ? html`<a class="button primary" href=${`#/compare?jobs=${picked.join(",")}`}>Compare ${picked.length} jobs</a>` : html`<span>Choose another job to compare this one with.</span>`;
  return html`<${Page} title="Jobs" actions=${create}>
    <div class="row between">
      <div class="chips" role="group" aria-label="State">${filters.map(([name, label]) => html`<button class="chip" aria-pressed=${status === name} onClick=${() => { setStatus(name); setLimit(PAGE); }}>${label}</button>`)}</div>
      <input type="search" class="narrow" placeholder="metadata, as team=support" aria-label="Filter by metadata, as in team=support" value=${pair} onInput=${(event) => setPair(event.target.value)} />
    </div>
    <${Problem} error=${error} again=${again} />
    ${!page && !error && html`<${Bones} label="Loading the jobs" />`}
    ${page && !jobs.length && (narrowed
      ? html`<${Empty} icon="jobs" title="No job fits these filters" actions=${html`<button onClick=${() => { setStatus(""); setPair(""); }}>Show all jobs</button>`}>Choose another state, or clear the metadata.<//>`
      : html`<${Empty} icon="jobs" title="No jobs yet" actions=${create}>Start with a file of labelled sentences; a few dozen are enough. You see what is wrong with it before anything is trained, and can try the model when it is done.<//>`)}
    <ul class="jobs">${jobs.map((job) => html`<${JobRow} key=${job.id} job=${job} picked=${picked.includes(job.id)} pick=${pick} />`)}</ul>
    ${page?.has_more && html`<div><button onClick=${() => setLimit(limit + PAGE)}>Show more</button></div>`}
    ${picked.length > 0 && html`<div class="card picked row">${compare}<button class="small" onClick=${() => setPicked([])}>Choose none</button></div>`}
  <//>`;
}
