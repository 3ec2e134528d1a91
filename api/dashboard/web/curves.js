// A job's figures: read once, then only what is new.
import { useRef, useState } from "./core.js";
import { get } from "./api.js";
import { useEvery, useRead } from "./live.js";

export const NAMES = ["train_loss", "valid_loss", "train_accuracy", "valid_accuracy", "gradient_norm", "reference_cosine", "source_cosine", "source_weight", "learning_rate", "replica"];
const RESOLUTION = 5000;
const POLL = 250;

/** Puts what came from `from` on in the place of what was known of these steps. */
export function merge(known, came, from) {
  const merged = { ...known };
  for (const { name, steps, values } of came) {
    const old = known[name] || { steps: [], values: [] };
    let kept = old.steps.length;
    while (kept && old.steps[kept - 1] >= from) kept -= 1;
    merged[name] = { steps: [...old.steps.slice(0, kept), ...steps], values: [...old.values.slice(0, kept), ...values] };
  }
  return merged;
}

/**
 * The curves of a job that trains several times, over the steps of each: {runs, curves}, where a curve's values are
 * means over the runs that have figures there, between `low` and `high`. As they are where it trains once.
 */
export function overRuns(curves) {
  const { replica } = curves;
  if (!replica?.steps.length) return { runs: 1, curves };
  const taken = new Map(), own = new Map();
  replica.steps.forEach((step, index) => {
    const number = replica.values[index];
    taken.set(number, (taken.get(number) || 0) + 1);
    own.set(step, taken.get(number));
  });
  const pooled = ({ steps, values }) => {
    const found = new Map();
    steps.forEach((step, index) => {
      if (!own.has(step)) return; // its evaluation came before it
      const value = values[index], seen = found.get(own.get(step)) || { sum: 0, count: 0, low: value, high: value };
      found.set(own.get(step), { sum: seen.sum + value, count: seen.count + 1, low: Math.min(seen.low, value), high: Math.max(seen.high, value) });
    });
    const places = [...found.keys()].sort((a, b) => a - b), all = places.map((place) => found.get(place));
    return { steps: places, values: all.map(({ sum, count }) => sum / count), low: all.map(({ low }) => low), high: all.map(({ high }) => high) };
  };
  return { runs: taken.size, curves: Object.fromEntries(Object.entries(curves).map(([name, curve]) => [name, pooled(curve)])) };
}

/** {curves, exact, error, loading, again}: figures by name, and whether every step has its own point. */
export function useCurves(id, running, attempts) {
  const [state, setState] = useState({ curves: {}, exact: true });
  const last = useRef(0), told = useRef(new Set()), of = useRef(), newest = useRef(0);
  const part = `${running} ${attempts}`;
  const read = async (from) => {
    const turn = ++newest.current;
    const found = await get(`/v1/fine_tuning/jobs/${id}/metrics?names=${NAMES.join(",")}&from_step=${from}&resolution=${RESOLUTION}`);
    if (turn !== newest.current || !found.data.some((series) => series.steps.length)) return;
    found.data.find(({ name }) => name === "replica").values.forEach((number) => told.current.add(number));
    last.current = Math.max(found.to_step - told.current.size, 0);
    setState((old) => ({ curves: merge(from ? old.curves : {}, found.data, from), exact: (from ? old.exact : true) && found.steps_per_point === 1 }));
  };
  // An evaluation may come after its step's own figures, so the newest step, of each run, is always asked for again.
  const { error, loading, again } = useRead(() => {
    // Another attempt goes on from a checkpoint, and does the steps since then anew.
    if (of.current !== part) last.current = 0;
    of.current = part;
    return read(last.current);
  }, [id], [part]);
  useEvery(running ? POLL : 0, again, [again]);
  return { ...state, error, loading, again };
}

export const NEGLIGIBLE = 1e-12; // a step without a gradient says nothing about what is normal

/** The norm above which a gradient is clipped, step by step, by the rule of sgg_core/guidance/magnitude.py. */
export function clippingLimits(norms, z, beta = 0.9, warmUp = 6, leastDeviation = 0.1) {
  let count = 0, mean = 0, variance = 0;
  return norms.map((norm) => {
    const limit = count < warmUp ? null : Math.exp(mean + z * Math.max(leastDeviation, Math.sqrt(variance)));
    if (norm < NEGLIGIBLE) return limit;
    const kept = Math.log(limit === null ? norm : Math.min(norm, limit));
    count += 1;
    const weight = Math.max(1 - beta, 1 / count), change = kept - mean;
    mean += weight * change;
    variance = (1 - weight) * (variance + weight * change * change);
    return limit;
  });
}
