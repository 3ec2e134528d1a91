import { html, useState } from "../core.js";
import { can, get, remove, upload } from "../api.js";
import { useAction, useRead } from "../live.js";
import { ago, bytes, plural } from "../format.js";
import { Bones, Card, Confirm, Empty, Page, Problem, Table } from "../parts.js";

const SHOWN = 200;

const examplesOf = ({ sgg }) => html`<span class="nowrap">${plural(sgg.examples || 0, "example")}</span>${sgg.labels.length > 0 && html`<div class="soft small">${plural(sgg.labels.length, "label")}</div>`}`;

const Warnings = ({ sgg }) => html`<details><summary class="small">${plural(sgg.warning_count, "warning")}</summary><ul class="small stack tight">${sgg.warnings.map((each) => html`<li>${each.line ? `Line ${each.line}: ` : ""}${each.reason} ${each.remedy}</li>`)}${sgg.warning_count > sgg.warnings.length && html`<li class="soft">${plural(sgg.warning_count - sgg.warnings.length, "more warning")}, not listed here; <code>sgg files check</code> lists all.</li>`}</ul></details>`;

function rowOf(file, chosen, drop) {
  const { sgg } = file, examples = file.purpose === "fine-tune" && sgg.kind !== "adapter";
  return { key: file.id, chosen, cells: [
    html`<a href=${`/v1/files/${file.id}/content`} download=${file.filename}>${file.filename}</a><div class="soft small mono id" title=${file.id}>${file.id}</div>`,
    html`${examples ? examplesOf(file) : sgg.kind === "adapter" ? `adapter of rank ${sgg.rank}` : "result"}${sgg.warning_count > 0 && html`<${Warnings} sgg=${sgg} />`}`,
    bytes(file.bytes),
    ago(file.created_at),
    html`<div class="row">${examples && can("jobs:write") && html`<a class="button small" href=${`#/new?file=${file.id}`}>Train on it<span class="sr"> (${file.filename})</span></a>`}
      ${can("files:write") && html`<${Confirm} className="small danger" label="Delete" title=${`Delete ${file.filename}?`} text=${file.purpose === "fine-tune" ? "Finished jobs keep their results." : "A job's metrics can be deleted alone. An adapter is deleted with its model or its job."} yes="Yes, delete it" onYes=${drop} />`}</div>`,
  ] };
}

const columns = [["Name"], ["Holds"], ["Size", "num nowrap"], ["Uploaded", "nowrap soft"], [{ quiet: "Actions" }]];

/** A list of one file, or of none where there is no such file. */
const theOne = (id) => get(`/v1/files/${encodeURIComponent(id)}`).then((file) => ({ data: [file] }), (error) => {
  if (error.status === 404) return { data: [] };
  throw error;
});

export function Files({ search }) {
  const [purpose, setPurpose] = useState("fine-tune");
  const { value: page, error, again } = useRead(() => (search.file ? theOne(search.file) : get(`/v1/files?limit=${SHOWN}${purpose ? `&purpose=${purpose}` : ""}`)), [purpose, search.file]);
  const act = useAction(async (work) => { await work(); await again(); });
  const files = page?.data || [];
  const add = async (file) => {
    const here = location.hash;
    await upload(file.name, file);
    if (search.file && location.hash === here) location.hash = "#/files";
  };
  const adding = html`<label class="button primary">Upload a file<input class="sr" type="file" onChange=${(event) => { const file = event.target.files[0]; event.target.value = ""; if (file) act.run(() => add(file)); }} /></label>`;
  return html`<${Page} title="Files" lead="Examples to train on, and results of jobs." actions=${can("files:write") && adding}>
    ${search.file ? html`<div><a class="button small" href="#/files">Show all files</a></div>` : html`<div class="chips" role="group" aria-label="Purpose">${[["fine-tune", "Examples"], ["fine-tune-results", "Results"], ["", "All"]].map(([name, label]) => html`<button class="chip" aria-pressed=${purpose === name} onClick=${() => { act.clear(); setPurpose(name); }}>${label}</button>`)}</div>`}
    <${Problem} error=${act.error} />
    <${Problem} error=${error} again=${again} title="The files cannot be listed" />
    ${!page && !error && html`<${Bones} />`}
    ${page && !files.length && search.file && html`<${Empty} icon="files" title="There is no such file">It may have been deleted; jobs that were trained on it keep their results.<//>`}
    ${page && !files.length && !search.file && html`<${Empty} icon="files" title="No files here">A new job uploads its own file. Upload one here to use it in several jobs, or as a source for alignment.<//>`}
    ${files.length > 0 && html`<${Card}><${Table} className="top" label="Files" columns=${columns} rows=${files.map((file) => rowOf(file, file.id === search.file, () => act.run(() => remove(`/v1/files/${file.id}`))))} /><//>`}
    ${page?.has_more && html`<p class="soft">The newest ${SHOWN} are shown; the command line lists more: <code>sgg files list --limit 10000</code>.</p>`}
  <//>`;
}
