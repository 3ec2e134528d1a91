import { html, useCallback, useEffect, useRef, useState } from "../core.js";
import { post } from "../api.js";
import { useAction, useReturn } from "../live.js";
import { bytes, count, duration, plural } from "../format.js";
import { Bones, Card, Problem } from "../parts.js";
import { holding, located } from "./new_data.js";
import { fieldOf } from "./new_settings.js";

const PAUSE = 400; // after the last change of a setting

/** The server's opinion of the request: {value, error, again}. A server without dry runs has none, which is no error. */
function useDryRun(request) {
  const [state, setState] = useState({});
  const [turn, setTurn] = useState(0);
  const again = useCallback(() => setTurn((now) => now + 1), []);
  const missed = useReturn(again);
  useEffect(() => {
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      try {
        setState({ value: await post("/v1/fine_tuning/jobs?dry_run=true", request, { signal: stop.signal }) });
      } catch (error) {
        if (error.name !== "AbortError" && !missed(error)) setState({ error });
      }
    }, PAUSE);
    return () => { stop.abort(); clearTimeout(timer); };
  }, [JSON.stringify(request), turn]);
  return { ...state, again };
}

/** When a job of that place in the queue begins: [in words, more of it]. */
export function beginning({ position, starts_in_seconds: start }) {
  const soon = start && start.expected <= 5;
  return [position > 1 ? `after ${plural(position - 1, "job")}` : soon ? "at once" : "next", !start ? "start not known yet" : soon ? null : `in about ${duration(start.expected)}`];
}

function Estimate({ told }) {
  const { estimate, queue, data } = told;
  const facts = [["Steps", count(estimate.steps), plural(estimate.epochs, "epoch")]];
  if (estimate.seconds) facts.push(["Takes about", duration(estimate.seconds.expected), `${duration(estimate.seconds.low)} to ${duration(estimate.seconds.high)}`]);
  if (estimate.peak_memory_bytes) facts.push(["Memory at its peak", bytes(estimate.peak_memory_bytes)]);
  if (queue) facts.push(["Begins", ...beginning(queue)]);
  const file = [data?.tokens != null && `${count(data.tokens)} in the file`, data?.truncated > 0 && `${plural(data.truncated, "example")} cut`].filter(Boolean);
  if (estimate.tokens != null || file.length) facts.push(["Tokens", estimate.tokens != null ? count(estimate.tokens) : "not known yet", file.join(", ")]);
  return html`<dl class="facts">${facts.map(([name, value, more]) => html`<div><dt>${name}</dt><dd>${value}${more && html`<small>${more}</small>`}</dd></div>`)}</dl>`;
}

function Preview({ request, place }) {
  const show = useAction(() => post("/v1/fine_tuning/preview", { model: request.model, training_file: request.training_file, method: request.method, limit: 3 }));
  const [shown, setShown] = useState();
  const newest = useRef(0);
  const read = async () => {
    const turn = ++newest.current;
    const found = await show.run();
    if (found && turn === newest.current) setShown(found);
  };
  return html`<div class="stack tight"><div class="row"><button disabled=${show.busy} onClick=${read}>${show.busy ? "Asking the worker…" : "Show what the model will see"}</button>
    <span class="soft small">${shown ? `What is learned: ${shown.trained}` :  "The first examples as prompts; what is marked is learned, the rest is given."}</span></div>
    <${Problem} error=${show.error} />
    ${shown && shown.data.map((example) => html`<figure class="prompt"><figcaption class="soft small">Example ${place(example.line)}: ${plural(example.tokens, "token")}${example.trained_tokens ? `, ${count(example.trained_tokens)} of them learned` : ""}${example.truncated ? "; it is cut" : ""}${example.label ? `; its label is ${example.label}` : ""}</figcaption>
      <pre>${example.segments.map((segment) => (segment.trained ? html`<mark>${segment.text}</mark>` : segment.text))}</pre>${example.problem && html`<p class="small bad">${example.problem.reason} ${example.problem.remedy}</p>`}</figure>`)}</div>`;
}

/** The error with the names of this page's fields. */
const inFields = (error) => error && { ...error, message: error.message, problems: error.problems?.map((problem) => ({ ...problem, param: fieldOf(problem.param) })) };

/** `rows` are those of the page, if the file was brought to it; then findings and previews name the examples as the page numbers them. */
export function NewCheck({ request, submit, rows, stored }) {
  const { value: told, error, again } = useDryRun(request);
  const part = (file) => (file === stored.validation?.id ? stored.valid : stored.train);
  const findings = holding(rows || [], (told?.findings || []).map((finding) => located(rows || [], part(finding.file_id), finding, finding.reason.includes("training file") ? stored.train : part(finding.file_id))));
  const severe = findings.filter((finding) => finding.severity === "error");
  const mild = findings.filter((finding) => finding.severity === "warning");
  const place = (line) => (located(rows || [], stored.train, { line, reason: "" }).place ?? line - 1) + 1;
  const where = (finding) => (finding.place !== undefined ? `Example ${finding.place + 1}: ` : finding.line ? `Line ${finding.line}: ` : finding.param ? `${fieldOf(finding.param)}: ` : "");
  return html`<${Card} title="Start" lead="What will happen, before it does.">
    <div class="stack">
      ${!told && !error && html`<${Bones} heights=${[50]} label="Estimating" />`}
      ${told?.estimate && html`<${Estimate} told=${told} />`}
      ${told?.smallest_difference && html`<p class="soft small">With the examples set aside, only differences in accuracy of about ${Math.round(told.smallest_difference * 100)} points or more can be told from chance.</p>`}
      ${severe.length > 0 && html`<div class="notice bad" role="alert"><strong>This has to be changed first</strong><ul>${severe.map((finding) => html`<li>${where(finding)}${finding.reason} ${finding.remedy}</li>`)}</ul></div>`}
      ${mild.length > 0 && html`<details class="notice warn"><summary>${mild.length === 1 ? "One thing" : `${mild.length} things`} to know</summary><ul>${mild.slice(0, 50).map((finding) => html`<li>${where(finding)}${finding.reason} ${finding.remedy}</li>`)}</ul></details>`}
      <${Problem} error=${inFields(submit.error || error)} again=${!submit.error && again} title="The job cannot start like this" />
      <${Preview} request=${request} place=${place} key=${`${request.model}${request.training_file}`} />
      <div><button class="primary" disabled=${submit.busy || severe.length > 0} onClick=${() => submit.run()}>Start the training</button></div>
    </div><//>`;
}
