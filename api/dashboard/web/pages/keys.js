import { html, useState } from "../core.js";
import { all, can, getSession, post, remove, get } from "../api.js";
import { useAction, useRead } from "../live.js";
import { ago, bytes, date, duration } from "../format.js";
import { Bar, Bones, Card, Confirm, Empty, Field, Page, Problem } from "../parts.js";

const scopes = [["jobs:read", "see jobs and models"], ["jobs:write", "create and cancel jobs"], ["files:read", "see and download files"], ["files:write", "upload and delete files"], ["models:try", "try models out"], ["admin", "everything, also keys and projects"]];
const quotas = [["queued_jobs", "Waiting jobs", String], ["running_jobs", "Running jobs", String], ["stored_bytes", "Stored files", bytes], ["trainer_seconds_per_day", "Training today", duration]];

function Usage({ project }) {
  return html`<${Card} title="Usage" lead="What this project uses of what it may have."><dl class="facts">${quotas.map(([name, label, show]) => {
    const { used, limit } = project.sgg.quotas[name];
    return html`<div><dt>${label}</dt><dd>${show(used)}<small>${limit === null ? "no limit" : `of ${show(limit)}`}</small>${limit !== null && html`<${Bar} share=${limit ? used / limit : 1} label=${label} />`}</dd></div>`;
  })}</dl><//>`;
}

function NewKey({ project, made }) {
  const [name, setName] = useState("");
  const [chosen, setChosen] = useState(["jobs:read", "jobs:write", "files:read", "files:write", "models:try"]);
  const [days, setDays] = useState("90");
  const [value, setValue] = useState();
  const create = useAction(async () => {
    const body = { name: name.trim(), scopes: chosen, ...(days && { expires_in_seconds: Math.round(Number(days) * 86400) }) };
    const key = await post(`/v1/organization/projects/${project.id}/api_keys`, body);
    setValue(key.value);
    setName("");
    made();
  });
  const submit = (event) => { event.preventDefault(); if (name.trim() && chosen.length) create.run(); };
  return html`<${Card} title="New key"><form class="stack" onSubmit=${submit}>
    ${value && html`<div class="notice good" role="status"><strong>This is the key. It is shown this once.</strong><code class="mono">${value}</code><div><button type="button" class="small" onClick=${() => navigator.clipboard?.writeText(value)}>Copy it</button></div></div>`}
    <div class="fields"><${Field} label="Name" hint="Who uses it, and where">${(ids) => html`<input ...${ids} maxlength="100" value=${name} onInput=${(event) => setName(event.target.value)} />`}<//>
      <${Field} label="Days until it expires" hint="empty: never">${(ids) => html`<input ...${ids} inputmode="numeric" value=${days} onInput=${(event) => setDays(event.target.value.trim())} />`}<//></div>
    <fieldset><legend class="label">It may</legend><div class="choices">${scopes.map(([scope, words]) => html`<label class="check"><input type="checkbox" checked=${chosen.includes(scope)} onChange=${(event) => setChosen(event.target.checked ? [...chosen, scope] : chosen.filter((each) => each !== scope))} /><span>${words}<span class="hint mono">${scope}</span></span></label>`)}</div></fieldset>
    <${Problem} error=${create.error} /><div><button class="primary" disabled=${create.busy || !name.trim() || !chosen.length}>Make the key</button></div></form><//>`;
}

export function Keys() {
  return can("admin") ? html`<${Projects} />` : html`<${Own} />`;
}

/** What a key sees that makes no keys: the figures of its own project. */
function Own() {
  const may = can("jobs:read");
  const { value: project, error, again } = useRead(() => (may ? get("/v1/project") : null), [may]);
  return html`<${Page} title="Keys and usage" lead=${project && `Project ${project.name}`}>
    <${Problem} error=${error} again=${again} />
    ${project ? html`<${Usage} project=${project} />` : may && !error && html`<${Bones} heights=${[120]} />`}
    <${Empty} icon="keys" title="Keys are for administrators">Your key may not see them. Ask the administrator for a key, or for more scopes.<//><//>`;
}

function Projects() {
  const [id, setId] = useState(getSession().project_id);
  const projects = useRead(() => all("/v1/organization/projects"), []);
  const keys = useRead(() => all(`/v1/organization/projects/${id}/api_keys`), [id]);
  const project = useRead(() => get(`/v1/organization/projects/${id}`), [id]);
  const act = useAction(async (key) => { await remove(`/v1/organization/projects/${id}/api_keys/${key.id}`); await keys.again(); });
  if (!project.value || !keys.value) return html`<${Page} title="Keys"><${Problem} error=${project.error || keys.error} again=${project.again} /><${Bones} /><//>`;
  const several = projects.value?.length > 1;
  return html`<${Page} title="Keys and usage" lead=${several ? null : `Project ${project.value.name}`}>
    ${several && html`<${Field} label="Project">${(ids) => html`<select ...${ids} onChange=${(event) => setId(event.target.value)}>${projects.value.map((each) => html`<option value=${each.id} selected=${each.id === id}>${each.name}</option>`)}</select>`}<//>`}
    <${Usage} project=${project.value} />
    <${Problem} error=${act.error} />
    <${Card} title="Keys"><div class="table" tabindex="0" role="group" aria-label="Table"><table><thead><tr><th>Name</th><th>May</th><th>Last used</th><th>Expires</th><th><span class="sr">Revoke</span></th></tr></thead>
      <tbody>${keys.value.map((key) => html`<tr key=${key.id}><td>${key.name || "–"}<div class="soft small mono">${key.redacted_value}</div></td><td class="small">${key.sgg.scopes.includes("admin") ? "everything" : key.sgg.scopes.join(", ")}</td>
        <td class="nowrap">${key.last_used_at ? ago(key.last_used_at) : "never"}</td><td class="nowrap">${key.expires_at ? date(key.expires_at) : "never"}</td>
        <td><${Confirm} className="small danger" label="Revoke" title=${`Revoke ${key.name || key.id}?`} text=${key.id === getSession().key_id ? "You are signed in with this key: you will be signed out." : "Programs and sessions that use it are refused from then on."} yes="Yes, revoke it" onYes=${() => act.run(key)} /></td></tr>`)}</tbody></table></div><//>
    <${NewKey} project=${project.value} made=${keys.again} />
  <//>`;
}
