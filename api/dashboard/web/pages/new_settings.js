import { html } from "../core.js";
import { can } from "../api.js";
import { ago, count, plural } from "../format.js";
import { Card, Field } from "../parts.js";

const numbers = [
  ["n_epochs", "Epochs", "auto: small files get enough steps to learn from"],
  ["batch_size", "Batch size", "auto: 8, or 16 where few examples are compared, or balanced, in each step"],
  ["learning_rate", "Learning rate", "auto: depends on the base model; to try several, separate them with commas, which needs folds or examples set aside"],
  ["folds", "Folds", "empty: none; with 5, each fifth of the examples is left out of one training and used to measure it, which takes about five times as long"],
  ["max_steps", "Maximum steps", "empty: as many as the epochs need"],
];

const named = new Map([...numbers, ["rank", "Rank of the adapter"], ["seed", "Seed"], ["suffix", "Name"], ["alignment", "Strength of the alignment"]]);
/** What this form calls a parameter of the request, such as method.sgg.hyperparameters.n_epochs. */
export const fieldOf = (param) => named.get(param?.split(".").findLast((part) => named.has(part))) || param;

const LORA = { rank: 8, alpha: 16 }; // unless told otherwise, as in sgg_core/spec.py
const OFFERED = 12; // files as sources

export const defaults = (models) => ({ model: models[0]?.id || "", method: "sgg", suffix: "", sources: [], alignment: "", rank: "", seed: "", keep: "last", hyperparameters: {}, carried: null, kept: {} });

/** The settings of an earlier job, as this form holds them; what it has no field for is carried along. */
export function settingsOf(job) {
  const { hyperparameters, sources, start_from: startFrom, retention_file: retention, priority } = job.method[job.method.type];
  const { lora, guidance, evaluation } = hyperparameters;
  const chosen = Object.fromEntries(numbers.map(([name]) => [name, hyperparameters[name]]).filter(([, value]) => value !== null && value !== "auto"));
  return {
    model: job.model, method: job.method.type, suffix: job.sgg.suffix || "", sources, alignment: String(guidance?.alignment || ""),
    rank: String(lora.rank), seed: String(job.seed), keep: evaluation.keep, hyperparameters: chosen, carried: hyperparameters, metadata: job.metadata,
    kept: { ...(startFrom && { start_from: startFrom }), ...(retention && { retention_file: retention }), ...(priority && { priority: can("admin") ? priority : Math.min(priority, 0) }) },
  };
}

/** A number, several, or what was typed instead of one, which the server answers with what is wrong about it. */
function typed(value) {
  const parts = String(value).split(",");
  if (parts.length > 1) return parts.map((part) => typed(part.trim()));
  return Number.isNaN(Number(value)) ? value : Number(value);
}

/** Alpha grows with the rank, so that the update, scaled by alpha / rank, stays as strong as it was. */
function ranked(lora, rank) {
  return { ...lora, rank, ...(rank > 0 && rank !== lora.rank && { alpha: (lora.alpha / lora.rank) * rank }) };
}

/** The request for a job. */
export function requestOf(settings, stored) {
  const hyperparameters = { ...settings.carried };
  for (const [name] of numbers) {
    delete hyperparameters[name];
    const value = settings.hyperparameters[name];
    if (value !== undefined && value !== "") hyperparameters[name] = typed(value);
  }
  if (settings.rank) hyperparameters.lora = ranked(hyperparameters.lora || LORA, typed(settings.rank));
  hyperparameters.evaluation = { ...hyperparameters.evaluation, keep: stored.validation ? settings.keep : "last", ...(!stored.validation && { patience: null }) };
  const sources = settings.method === "sgg" ? settings.sources : [];
  if (settings.method !== "sgg") delete hyperparameters.guidance;
  else if (sources.length && settings.alignment) hyperparameters.guidance = { ...hyperparameters.guidance, alignment: typed(settings.alignment) };
  else if (hyperparameters.guidance) hyperparameters.guidance = { ...hyperparameters.guidance, alignment: 0 };
  return {
    model: settings.model,
    training_file: stored.training.id,
    ...(stored.validation && { validation_file: stored.validation.id }),
    ...(settings.suffix && { suffix: settings.suffix }),
    ...(settings.seed !== "" && { seed: typed(settings.seed) }),
    ...(Object.keys(settings.metadata || {}).length > 0 && { metadata: settings.metadata }),
    method: { type: settings.method, [settings.method]: { hyperparameters, ...(sources.length && { sources }), ...settings.kept } },
  };
}

/** Files of related examples: of the same kind, with labels to tell apart, and no copies of the job's own files. */
export function sourcesAmong(files, { training, validation }) {
  const own = [training, validation].filter(Boolean), { kind } = training.sgg;
  return files.filter((file) => file.sgg.kind === kind && (kind !== "classification" || file.sgg.labels.length > 1) && !own.some(({ id, sgg }) => id === file.id || sgg.sha256 === file.sgg.sha256));
}

const Choice = ({ name, value, chosen, choose, title, children }) => html`<label class="choice"><input type="radio" name=${name} value=${value} checked=${chosen === value} onChange=${() => choose(value)} /><span><strong>${title}</strong><span class="hint">${children}</span></span></label>`;

export function NewSettings({ models, files, stored, settings, change }) {
  const set = (name, value) => change({ hyperparameters: { ...settings.hyperparameters, [name]: value } });
  const offered = sourcesAmong(files, stored), others = offered.slice(0, OFFERED);
  const chosen = settings.sources.filter((id) => !others.some((file) => file.id === id)).map((id) => files.find((file) => file.id === id) || { id, filename: id });
  return html`<${Card} title="Training" lead="The defaults suit most files; change what you know better.">
    <div class="stack"><fieldset><legend class="label">Base model</legend><div class="choices">
      ${models.map((model) => html`<${Choice} name="model" value=${model.id} chosen=${settings.model} choose=${(value) => change({ model: value })} title=${model.id}>${model.sgg.description || (model.sgg.kind === "encoder" ? "An encoder: quick, for labels only." : "A language model.")}${model.sgg.parameters > 0 && ` ${count(Math.round(model.sgg.parameters / 1e6))} million weights.`}<//>`)}
      ${settings.model.startsWith("ft:") && html`<${Choice} name="model" value=${settings.model} chosen=${settings.model} choose=${() => {}} title=${settings.model}>A model of yours, trained further.<//>`}
    </div></fieldset>
    <fieldset><legend class="label">Method</legend><div class="choices">
      <${Choice} name="method" value="sgg" chosen=${settings.method} choose=${(value) => change({ method: value })} title="Guided">Steps look ahead and keep the gradient steady in length and direction, which takes longer; the estimate below tells how long. With up to eight labels an encoder compares examples, in fewer steps than plain LoRA.<//>
      <${Choice} name="method" value="supervised" chosen=${settings.method} choose=${(value) => change({ method: value })} title="Plain LoRA">Ordinary training of the adapter, and what to compare with.<//>
    </div></fieldset>
    <div class="fields"><${Field} label="Name" hint="A part of the model's name.">${(ids) => html`<input ...${ids} maxlength="64" value=${settings.suffix} onInput=${(event) => change({ suffix: event.target.value })} />`}<//></div>
    <details><summary>More settings</summary><div class="stack">
      <div class="fields">
        ${numbers.map(([name, label, hint]) => html`<${Field} label=${label} hint=${hint}>${(ids) => html`<input ...${ids} inputmode="decimal" placeholder=${["folds", "max_steps"].includes(name) ? "" : "auto"} value=${settings.hyperparameters[name] ?? ""} onInput=${(event) => set(name, event.target.value.trim())} />`}<//>`)}
        <${Field} label="Rank of the adapter" hint="8; a higher rank can learn more, but overfits sooner. Alpha grows with it, so that the scale alpha / rank stays.">${(ids) => html`<input ...${ids} inputmode="numeric" placeholder=${(settings.carried?.lora || LORA).rank} value=${settings.rank} onInput=${(event) => change({ rank: event.target.value.trim() })} />`}<//>
        <${Field} label="Seed" hint="empty: drawn by the server; the same seed gives the same run">${(ids) => html`<input ...${ids} inputmode="numeric" value=${settings.seed} onInput=${(event) => change({ seed: event.target.value.trim() })} />`}<//>
      </div>
      ${stored.validation && html`<label class="check"><input type="checkbox" checked=${settings.keep === "best"} onChange=${(event) => change({ keep: event.target.checked ? "best" : "last" })} /><span>Keep the weights that did best on the examples set aside<span class="hint">Otherwise those of the last step.</span></span></label>`}
      ${["start_from", "retention_file"].filter((name) => settings.kept[name]).map((name) => html`<label class="check"><input type="checkbox" checked onChange=${() => change({ kept: { ...settings.kept, [name]: undefined } })} /><span>${name === "start_from" ? "Begin with the weights of" : "Measure what is forgotten on"} <code>${settings.kept[name]}</code><span class="hint">As the earlier job did.</span></span></label>`)}
      ${settings.method === "sgg" && others.length + chosen.length > 0 && html`<fieldset class="stack tight"><legend class="label">Sources: files of related examples of the same kind</legend>
        <p class="soft small">By default the adapter is trained on them first. A source that helps your examples is used as the start; one that does not is left out. This can take longer than the training itself.${offered.length > OFFERED && ` The newest ${OFFERED} files are offered; the command line takes others, too.`}</p>
        ${[...chosen, ...others].map((file) => html`<label class="check"><input type="checkbox" checked=${settings.sources.includes(file.id)} onChange=${(event) => change({ sources: event.target.checked ? [...settings.sources, file.id] : settings.sources.filter((id) => id !== file.id) })} /><span>${file.filename}<span class="hint">${file.sgg ? `${plural(file.sgg.examples, "example")}, ${ago(file.created_at)}` : "from the earlier job, but not among the newest files; it may have been deleted"}</span></span></label>`)}
        ${settings.sources.length > 0 && html`<div class="fields"><${Field} label="Strength of the alignment" hint="0 to 1; empty: 0">${(ids) => html`<input ...${ids} inputmode="decimal" placeholder="0" value=${settings.alignment} onInput=${(event) => change({ alignment: event.target.value.trim() })} />`}<//></div>`}
      </fieldset>`}
    </div></details></div><//>`;
}
