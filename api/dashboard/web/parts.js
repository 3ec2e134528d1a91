// What pages are made of.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./core.js";
import { can } from "./api.js";

const drawings = {
  jobs: "M4 6h16M4 12h16M4 18h10", new: "M12 5v14M5 12h14", compare: "M5 19V9m5 10V5m5 14v-7m5 7V8",
  try: "M5 6h14v10H10l-4 3v-3H5z", files: "M6 3h8l4 4v14H6zM14 3v4h4", keys: "M14 10a4 4 0 1 1-1.2 2.8L5 20.5V17h3v-3h2.5",
  system: "M4 5h16v6H4zM4 13h16v6H4zM8 8h.01M8 16h.01", upload: "M12 16V5m-5 5 5-5 5 5M5 19h14", out: "M14 4h5v16h-5M4 12h10m-4-4 4 4-4 4",
};
export const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${drawings[name]} /></svg>`;

const states = { queued: "Queued", running: "Running", paused: "Paused", succeeded: "Succeeded", failed: "Failed", cancelled: "Cancelled", validating_files: "Checking" };
export function Status({ job }) {
  const wish = job.sgg?.cancel_requested ? "Cancelling" : job.sgg?.pause_requested ? "Pausing" : null;
  return html`<span class=${`badge ${job.status}`}>${(job.status === "running" && wish) || states[job.status]}</span>`;
}

let arrived; // the address of the page that is seen; the first one leaves the focus where a reader begins

export function Page({ title, lead, actions, children, name }) {
  const heading = useRef();
  useEffect(() => {
    document.title = `${name || title} · SGG`;
  }, [name || title]);
  // Before it is seen, or the focus would be taken from who has put it elsewhere; as when the page's data arrive.
  useLayoutEffect(() => {
    if (arrived !== undefined && (arrived !== location.hash || document.activeElement === document.body)) heading.current.focus({ preventScroll: true });
    arrived = location.hash;
    window.scrollTo(0, 0);
  }, []);
  return html`<div class="page">
    <div class="head">
      <div class="grow"><h1 tabindex="-1" ref=${heading}>${title}</h1>${lead && html`<p class="soft">${lead}</p>`}</div>
      ${actions && html`<div class="actions">${actions}</div>`}
    </div>
    ${children}
  </div>`;
}

export const Card = ({ title, lead, extra, children, className = "", ...rest }) => html`
  <section class=${`card ${className}`} ...${rest}>
    ${title && html`<header><h2>${title}</h2>${extra}${lead && html`<p class="soft small">${lead}</p>`}</header>`}
    ${children}
  </section>`;

/** The way on from a job that is not there. */
export const ToTheJobs = () => html`<a class="button small" href="#/jobs">To the jobs</a>`;

/** An error with what to do; the problems of a file or request one by one. */
export function Problem({ error, again, title, children }) {
  if (!error) return null;
  const listed = error.problems?.filter((problem) => problem.message || problem.reason) || [];
  return html`<div class="notice bad" role="alert">
    <strong>${title || (error.status === 403 ? "Your key may not do this" : "That did not work")}</strong>
    ${listed.length > 1
      ? html`<ul>${listed.slice(0, 30).map((problem) => html`<li>${problemText(problem)}</li>`)}</ul>`
      : html`<p>${listed.length ? problemText(listed[0]) : error.message}</p>`}
    ${(again || children) && html`<div class="row">${again && html`<button class="small" onClick=${again}>Try again</button>`}${children}</div>`}
  </div>`;
}

export function problemText(problem) {
  if (problem.message) return problem.param ? `${problem.param}: ${problem.message}` : problem.message;
  return `${problem.line ? `Line ${problem.line}: ` : ""}${reasonOf(problem)} ${problem.remedy || ""}`;
}

/** Why something is wrong with a file, with the name of the field that it is about. */
export const reasonOf = ({ field, reason }) => (field && reason.startsWith("The field ") ? reason.replace("The field ", `The field "${field}" `) : reason);

export const Empty = ({ icon, title, children, actions }) => html`<div class="card empty">
  <${Icon} name=${icon} /><h2>${title}</h2><p>${children}</p>${actions && html`<div class="actions">${actions}</div>`}
</div>`;

export const Bones = ({ heights = [72, 72, 72], label = "Loading" }) => html`
  <div class="stack" role="status"><span class="sr">${label}</span>
    ${heights.map((height) => html`<div class="bone" style=${`height:${height}px`}></div>`)}
  </div>`;

export const Bar = ({ share, label }) => html`<div class="bar" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(share * 100)}>
  <i style=${`width:${Math.min(100, share * 100)}%`}></i></div>`;

let held = false; // whether something on the page would be lost with it
export const mayLeave = () => !held || confirm("Your corrections are not saved and will be lost if you leave this page. Leave it?");

/** Asks before one leaves the page while `unsaved`. */
export function useUnsaved(unsaved) {
  useLayoutEffect(() => {
    if (!unsaved) return undefined;
    held = true;
    const ask = (event) => event.preventDefault();
    addEventListener("beforeunload", ask);
    return () => {
      held = false;
      removeEventListener("beforeunload", ask);
    };
  }, [unsaved]);
}

let serial = 0;
export function Field({ label, hint, children }) {
  const [id] = useState(() => `f${++serial}`);
  return html`<div class="field"><label for=${id}>${label}</label>${children({ id, "aria-describedby": hint ? `${id}h` : undefined })}
    ${hint && html`<span class="hint" id=${`${id}h`}>${hint}</span>`}</div>`;
}

/** A button that asks before it acts. */
export function Confirm({ label, title, text, yes, onYes, className = "danger", disabled }) {
  const dialog = useRef();
  return html`<button class=${className} disabled=${disabled} onClick=${() => dialog.current.showModal()}>${label}</button>
    <dialog ref=${dialog} aria-label=${title}><div class="stack">
      <h2>${title}</h2><p>${text}</p>
      <div class="row"><button class="primary" onClick=${() => { dialog.current.close(); onYes(); }}>${yes}</button>
      <button autofocus onClick=${() => dialog.current.close()}>No, go back</button></div></div>
    </dialog>`;
}

/**
 * A table, each row of which is a card on a narrow screen. `columns` are [head, class of its cells]; a head that is only read
 * aloud is {quiet}. Rows are {key, chosen, cells, note}; the roles stay when the style takes the table apart.
 */
export function Table({ label, columns, rows, className = "" }) {
  const heads = columns.map(([head]) => (head.quiet ? html`<span class="sr">${head.quiet}</span>` : head));
  return html`<div class=${`table ${className}`} tabindex="0" role="group" aria-label=${label}><table class="cards" role="table" aria-label=${label}>
    <thead role="rowgroup"><tr role="row">${columns.map(([, style], index) => html`<th role="columnheader" class=${style}>${heads[index]}</th>`)}</tr></thead>
    <tbody role="rowgroup">${rows.map(({ key, chosen, cells, note }) => html`<tr role="row" key=${key} class=${chosen ? "chosen" : ""}>${cells.map((cell, index) => html`<td role="cell" class=${columns[index][1]} data-head=${columns[index][0].quiet ? undefined : columns[index][0]}><div>${cell}</div></td>`)}</tr>
      ${note && html`<tr role="row" class="note"><td role="cell" colspan=${columns.length}><div class="soft small">${note}</div></td></tr>`}`)}</tbody></table></div>`;
}

/** Shows its children to those whose key may do it. */
export const May = ({ scope, children }) => (can(scope) ? children : null);
