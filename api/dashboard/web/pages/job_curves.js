import { html } from "../core.js";
import { clippingLimits, NEGLIGIBLE, overRuns } from "../curves.js";
import { Chart, logarithmic } from "../charts.js";
import { Bones, Card, Problem } from "../parts.js";

const none = { steps: [], values: [] };
const unit = () => [-1, 1];
const lowest = (values) => values.reduce((least, value) => (value >= NEGLIGIBLE && value < least ? value : least), Infinity);
const highest = (values) => values.reduce((most, value) => (value > most ? value : most), 0);
const ROOM = 10; // a limit may lie orders of magnitude above all norms, which shall not become a flat line for that

/** From the least norm to the greatest, and to the edges of the band where they are near. */
function ofNorms(plot) {
  const [, norms, ...edges] = plot.data;
  const most = highest(norms);
  return logarithmic(Math.min(lowest(norms), ...edges.map(lowest)), Math.max(most, Math.min(Math.max(0, ...edges.map(highest)), ROOM * most)));
}
const share = (plot, low, high) => [0, Math.max(1, high)];

/** Whether a job on a base model of this kind is trained by comparing examples, if its labels are few. */
export function compares(job, base) {
  const { task, guidance, balanced_batches: balanced } = job.method[job.method.type].hyperparameters;
  const guided = job.method.type === "sgg" && guidance?.variant !== "off";
  return base === "encoder" && (task?.objective === "contrast" || (guided && balanced !== false && task?.objective !== "cross_entropy"));
}

/** What a training file holds that may be deleted, as the report has it, or else as the job was told. */
export const kindOf = (job, told) => job.sgg.kind || told || job.method[job.method.type].hyperparameters.task?.type;

/** The curves of a job, each with a sentence on what it means. */
export function JobCurves({ job, figures, base, kind }) {
  const { curves: read, exact, error, loading, again } = figures;
  const { runs, curves } = exact ? overRuns(read) : { runs: 1, curves: read };
  const note = runs > 1 ? `The curves are those of ${runs} runs, over the steps of each: their means, and bands from the lowest to the highest.`
    : !exact && read.replica?.steps.length ? "There are too many steps to draw each run by itself, so steps are counted through all runs of this job." : null;
  const of = (name) => curves[name] || none;
  const guided = job.method.type === "sgg";
  const z = guided ? job.method.sgg.hyperparameters.guidance?.clip_z : null;
  const norm = of("gradient_norm");
  const told = exact && z && runs === 1 ? clippingLimits(norm.values, z) : [];
  const least = lowest(norm.values), top = ROOM * highest(norm.values);
  const limits = told.some((limit) => limit !== null && limit <= top) ? told : [];
  const floor = limits.map((limit) => (limit === null ? null : least));
  const gradient = [{ label: "|g|", ...norm }];
  if (limits.length) gradient.push({ label: "clipped above", steps: norm.steps, values: limits, low: floor, high: limits, dashed: true });
  const problem = html`<${Problem} error=${error} again=${again} title="The curves cannot be shown" />`;
  if (!of("train_loss").steps.length) return html`<${Card} title="Curves">${problem}${loading && html`<${Bones} heights=${[200]} label="Loading the curves" />`}
    ${!error && !loading && html`<p class="soft">${["failed", "cancelled"].includes(job.status) ? "The training ended before its first step." : "The curves begin with the first step. Until then the worker loads the base model and evaluates it before training."}</p>`}<//>`;
  const words = kindOf(job, kind) === "classification" ? "examples" : "tokens";
  const compared = words === "examples" && compares(job, base);
  const sync = job.id;
  return html`<div class="stack">${problem}${note && html`<p class="soft">${note}</p>`}<div class="grid2">
    <${Chart} title="Loss" sync=${sync} series=${[{ label: "training", ...of("train_loss") }, { label: "validation", points: true, ...of("valid_loss") }]}
      text=${`How surprised the model is by the right answers. If the validation loss rises while the training loss falls, the model begins to learn by heart.${compared ? " An encoder with up to eight labels is trained by comparing examples, which has a different loss: look at how the two move, not at how high they are." : ""}`} />
    <${Chart} title="Accuracy" sync=${sync} range=${share} series=${[{ label: "training batch", ...of("train_accuracy") }, { label: "validation", points: true, ...of("valid_accuracy") }]}
      text=${`The share of ${words} that come out right. Single batches jump; what counts is the validation set.`} />
    <${Chart} title="Length of the gradient, |g|" sync=${sync} log range=${ofNorms} series=${gradient}
      text=${limits.length ? "How hard the examples pull at the weights. What leaves the band is clipped back to its edge, so that no odd batch throws the training off." : "How hard the examples pull at the weights. It falls as the model has less to learn."} />
    ${of("reference_cosine").steps.length > 0 && html`<${Chart} title="Cosine to the reference" sync=${sync} range=${unit} series=${[{ label: "cos(g, d)", ...of("reference_cosine") }]}
      text="Whether a step points where the steps before it pointed: 1 is the same way, 0 unrelated, below 0 back again." />`}
    ${of("source_cosine").steps.length > 0 && html`<${Chart} title="Alignment with the sources" sync=${sync} range=${unit} series=${[{ label: "cos(g, source)", ...of("source_cosine") }, { label: "weight", ...of("source_weight") }]}
      text="Whether the related examples pull the same way as yours. Below 0 they work against them; the weight says how much of them is added." />`}
  </div></div>`;
}
