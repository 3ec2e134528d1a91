import { html } from "../core.js";
import { can, get, getSession } from "../api.js";
import { bytes, count, date, duration, percent } from "../format.js";
import { useEvery, useRead } from "../live.js";
import { Bar, Bones, Card, Page, Problem } from "../parts.js";

const FOLLOWED_MS = 5000;
const NEAR = 0.9; // a share of a quota from which on it is spoken of

export const scopes = [["jobs:read", "see jobs and models"], ["jobs:write", "create and cancel jobs"], ["files:read", "see and download files"], ["files:write", "upload and delete files"], ["models:try", "try models out"], ["admin", "everything, also keys and projects"]];

/** Quotas by their names: what people call them, how they are written, where one looks with which scope, what happens at the limit. */
const quotas = [
  ["running_jobs", "Running jobs", count, "#/jobs?status=running", "jobs:read", "Further jobs wait until one of them has ended."],
  ["queued_jobs", "Waiting jobs", count, "#/jobs?status=queued", "jobs:read", "Further jobs are refused until some of them have begun."],
  ["stored_bytes", "Stored files", bytes, "#/files", "files:read", "Uploads are refused until files are deleted."],
  ["trainer_seconds_per_day", "Trained today", duration, null, null, "New jobs are refused, and those that wait do not begin, before midnight UTC."],
];

export function Usage({ project }) {
  const told = quotas.map(([name, ...rest]) => [project.sgg.quotas[name], ...rest]);
  const near = told.filter(([{ used, limit }]) => limit !== null && used >= NEAR * limit);
  return html`<${Card} title="Usage" lead="What this project uses of its quotas; days begin at midnight UTC."><div class="stack">
    <dl class="facts">${told.map(([{ used, limit }, label, show, place, scope]) => html`<div><dt>${place && can(scope) ? html`<a href=${place}>${label}</a>` : label}</dt><dd>${show(used)}<small>${limit === null ? "no limit" : `of ${show(limit)}`}</small>${limit !== null && html`<${Bar} share=${limit ? used / limit : 1} label=${label} />`}</dd></div>`)}</dl>
    ${near.map(([{ used, limit }, label, , , , then]) => html`<div class="notice warn"><strong>${label}: ${used >= limit ? "the limit is reached" : `${percent(used / limit)} of the limit`}</strong><p>${used >= limit ? then : `At the limit: ${then[0].toLowerCase()}${then.slice(1)}`}</p></div>`)}
  </div><//>`;
}

/** What a key sees that makes no keys: the figures of its own project, and what it may do itself. */
export function OwnUsage() {
  const session = getSession(), may = can("jobs:read");
  const { value: project, error, again } = useRead(() => (may ? get("/v1/project") : null), [may]);
  useEvery(may ? FOLLOWED_MS : 0, again, [again]);
  return html`<${Page} title="Usage" lead=${project && `Project ${project.name}`}>
    <${Problem} error=${error} again=${again} />
    ${project ? html`<${Usage} project=${project} />` : may && !error && html`<${Bones} heights=${[120]} />`}
    <${Card} title="Your key" lead="Administrators make keys and set quotas. Ask one for a key with more scopes.">
      <dl class="pairs"><dt>Name</dt><dd>${session.key_name || "–"} <span class="soft small mono">${session.key_id}</span></dd>
        ${scopes.filter(([scope]) => scope !== "admin").map(([scope, words]) => html`<dt class="mono">${scope}</dt><dd>${session.scopes.includes(scope) ? `It may ${words}.` : html`<span class="soft">It may not ${words}.</span>`}</dd>`)}
        <dt>Signed in until</dt><dd>${date(session.expires_at)}</dd></dl><//><//>`;
}
