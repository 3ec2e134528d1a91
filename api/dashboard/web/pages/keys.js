import { html, useState } from "../core.js";
import { all, can, getSession, post, remove, get } from "../api.js";
import { useAction, useRead } from "../live.js";
import { ago, date } from "../format.js";
import { Bones, Card, Confirm, Field, Page, Problem, Table } from "../parts.js";
import { OwnUsage, scopes, Usage } from "./usage.js";

/** The seconds until a key expires, null for never. Throws for what is no number of days above 0. */
export function lifetime(days) {
  if (!days) return null;
  const seconds = Math.round(Number(days) * 86400);
  if (!(seconds > 0 && seconds < Infinity)) throw new Error(`"${days}" is not a valid number of days until the key expires. Enter a number above 0, such as 90 or 0.5, or nothing for never.`);
  return seconds;
}

/** `making` is the page's action, so that no other project is chosen before the key is shown. */
function NewKey({ project, making, made }) {
  const [name, setName] = useState("");
  const [chosen, setChosen] = useState(["jobs:read", "jobs:write", "files:read", "files:write", "models:try"]);
  const [days, setDays] = useState("90");
  const [value, setValue] = useState();
  const create = async () => {
    const body = { name: name.trim(), scopes: chosen, expires_in_seconds: lifetime(days) };
    const key = await post(`/v1/organization/projects/${project.id}/api_keys`, body);
    setValue(key.value);
    setName((now) => (now.trim() === body.name ? "" : now)); // the next one's may be typed already
    made();
  };
  const submit = (event) => { event.preventDefault(); if (name.trim() && chosen.length && !making.busy) making.run(create); };
  return html`<${Card} title="New key"><form class="stack" onSubmit=${submit}>
    ${value && html`<div class="notice good" role="status"><strong>This is the key. It is shown only this once, so copy it now.</strong><code class="mono">${value}</code><${Copy} text=${value} /></div>`}
    <div class="fields"><${Field} label="Name" hint="Who uses it, and where">${(ids) => html`<input ...${ids} maxlength="100" value=${name} onInput=${(event) => setName(event.target.value)} />`}<//>
      <${Field} label="Days until it expires" hint="empty: never">${(ids) => html`<input ...${ids} inputmode="numeric" value=${days} onInput=${(event) => setDays(event.target.value.trim())} />`}<//></div>
    <fieldset><legend class="label">It may</legend><div class="choices">${scopes.map(([scope, words]) => html`<label class="check"><input type="checkbox" checked=${chosen.includes(scope)} onChange=${(event) => setChosen(event.target.checked ? [...chosen, scope] : chosen.filter((each) => each !== scope))} /><span>${words}<span class="hint mono">${scope}</span></span></label>`)}</div></fieldset>
    <${Problem} error=${making.error} /><div><button class="primary" disabled=${making.busy || !name.trim() || !chosen.length}>Make the key</button></div></form><//>`;
}

/** Puts a text where it can be pasted from; where the browser does not let a page do that, marks it instead. */
function Copy({ text }) {
  const [done, setDone] = useState("");
  const copy = async (event) => {
    const shown = event.currentTarget.closest(".notice").querySelector("code");
    try {
      await navigator.clipboard.writeText(text);
      setDone("Copied.");
    } catch {
      getSelection().selectAllChildren(shown);
      setDone("Without TLS, this browser does not let a page copy; the key is marked, so press Ctrl+C.");
    }
  };
  return html`<div class="row"><button type="button" class="small" onClick=${copy}>Copy it</button><span class="soft small" role="status">${done}</span></div>`;
}

const columns = [["Name"], ["May", "small"], ["Last used", "nowrap"], ["Expires", "nowrap"], [{ quiet: "Revoke" }]];

function rowOf(key, revoke) {
  const own = key.id === getSession().key_id;
  return { key: key.id, cells: [
    html`${key.name || "–"}<div class="soft small mono">${key.redacted_value}</div>`,
    key.sgg.scopes.includes("admin") ? "everything" : key.sgg.scopes.join(", "),
    key.last_used_at ? ago(key.last_used_at) : "never",
    key.expires_at ? date(key.expires_at) : "never",
    html`<${Confirm} className="small danger" label="Revoke" title=${`Revoke ${key.name || key.id}?`} text=${own ? "You are signed in with this key: you will be signed out." : "Programs and sessions that use it are refused from then on."} yes="Yes, revoke it" onYes=${revoke} />`,
  ] };
}

export function Keys() {
  return can("admin") ? html`<${Projects} />` : html`<${OwnUsage} />`;
}

function Projects() {
  const [id, setId] = useState(getSession().project_id);
  const projects = useRead(() => all("/v1/organization/projects"), []);
  const keys = useRead(() => all(`/v1/organization/projects/${id}/api_keys`), [id]);
  const project = useRead(() => get(`/v1/organization/projects/${id}`), [id]);
  const act = useAction(async (key) => { await remove(`/v1/organization/projects/${id}/api_keys/${key.id}`); await keys.again(); });
  const making = useAction((work) => work());
  const several = projects.value?.length > 1, known = project.value && keys.value, failed = project.error || keys.error;
  const again = () => { project.again(); keys.again(); };
  return html`<${Page} title="Keys and usage" lead=${!several && known ? `Project ${project.value.name}` : null}>
    <${Problem} error=${projects.error} again=${projects.again} title="The projects cannot be listed" />
    ${several && html`<${Field} label="Project">${(ids) => html`<select ...${ids} disabled=${making.busy} onChange=${(event) => { making.clear(); setId(event.target.value); }}>${projects.value.map((each) => html`<option value=${each.id} selected=${each.id === id}>${each.name}</option>`)}</select>`}<//>`}
    <${Problem} error=${failed} again=${again} title="The keys cannot be shown" />
    ${!known && !failed && html`<${Bones} />`}
    ${known && html`<${Usage} project=${project.value} />
      <${Problem} error=${act.error} />
      <${Card} title="Keys"><${Table} label="Keys" columns=${columns} rows=${keys.value.map((key) => rowOf(key, () => act.run(key)))} /><//>
      <${NewKey} project=${project.value} making=${making} made=${keys.again} />`}
  <//>`;
}
