// Curves. uPlot draws them; colours are those of the page.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./core.js";
import uPlot from "./vendor/uplot.js";
import { figure } from "./format.js";

const COLOURS = ["--accent", "--second", "--third", "--fourth"];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const HEIGHT = 200;
const DRAWABLE = 1e15; // uPlot knows no ticks of a logarithmic axis beyond

/**
 * The range of a logarithmic axis that shows `low` to `high` with some room. It begins at a round number, because uPlot
 * steps from there to the next power of ten and, from 9.6 say, never gets there: it counts the same tick for ever.
 */
export function logarithmic(low, high) {
  if (!(low > 0 && low <= high)) return [0.1, 1];
  const within = (value) => Math.min(Math.max(value, 1 / DRAWABLE), DRAWABLE);
  const [least, most] = [within(low / 1.25), within(high * 1.25)];
  const power = Math.floor(Math.log10(least));
  const digit = Math.min(Math.max(Math.floor(least / 10 ** power), 1), 9);
  return [Number(`${digit}e${power}`), most > least ? most : least * 10];
}

const tidy = (value) => Number(value.toPrecision(12));
const LABELLED = 6; // decades on a logarithmic axis, at most; over more of them some are left out

/** Round numbers from `low` to `high`, two at least. */
function evenly(low, high) {
  const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((digit) => digit * power >= raw * (1 - 1e-9));
  const found = [];
  for (let index = Math.ceil(low / step); index * step <= high; index += 1) found.push(tidy(index * step));
  return found;
}

/** The ticks of a logarithmic axis: 1, 2 and 5, powers of ten over more than two decades, or evenly where too few are left. */
export function ticksOf(low, high) {
  const first = Math.floor(Math.log10(low)), last = Math.floor(Math.log10(high));
  const digits = high > 200 * low ? [1] : [1, 2, 5], found = [];
  for (let power = first; power <= last; power += Math.max(1, Math.ceil((last - first) / LABELLED))) found.push(...digits.map((digit) => Number(`${digit}e${power}`)));
  const within = found.filter((value) => value >= low && value <= high);
  return within.length > 1 ? within : evenly(low, high);
}

/** The range that shows `low` to `high`, shares of something, with some room, and is at least so wide. */
export function spanning(low, high, least) {
  if (low === null || high === null) return [0, 1];
  const wide = Math.max(least, 1.2 * (high - low)), begin = Math.max(0, (low + high - wide) / 2), end = Math.min(1, begin + wide);
  return [Math.max(0, end - wide), end];
}

const WHOLE = Array.from({ length: 10 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat(); // between steps

/** Aligns series [{steps, values}] of different steps: [steps, values, values, ...], null where there is none. */
export function align(series) {
  const steps = [...new Set(series.flatMap((each) => each.steps))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, index) => [step, index]));
  const columns = series.map((each) => {
    const column = new Array(steps.length).fill(null);
    each.steps.forEach((step, index) => { column[place.get(step)] = each.values[index]; });
    return column;
  });
  return [steps, ...columns];
}

/** Ticks as they are written: short, but never two of them alike. */
export function written(ticks) {
  const at = (digits) => ticks.map((value) => (value === null ? "" : String(Number(value.toPrecision(digits)))));
  const known = ticks.filter((value) => value !== null).length;
  let digits = 4;
  while (digits < 12 && new Set(at(digits).filter(Boolean)).size < known) digits += 1;
  return at(digits);
}

function axes(log) {
  const shared = { stroke: colour("--soft"), font: "12px system-ui, sans-serif", grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const logarithmicTicks = { splits: (plot, axis, low, high) => ticksOf(low, high), filter: (plot, splits) => splits, grid: { show: false } };
  return [{ ...shared, grid: { show: false }, size: 24, incrs: WHOLE, label: "step", labelSize: 16, labelGap: 0, labelFont: shared.font }, { ...shared, size: 52, values: (plot, splits) => written(splits), ...(log && logarithmicTicks) }];
}

const isOne = (values) => values.filter((value) => value !== null).length === 1; // no line can be drawn through it

function make(place, series, data, { log, range, sync }) {
  const lines = series.map((each) => ({
    label: each.label,
    stroke: each.edge ? "transparent" : colour(COLOURS[each.colour % COLOURS.length]),
    width: each.edge ? 0 : 1.8,
    spanGaps: true,
    points: { show: (plot, index) => !each.edge && (each.points || isOne(plot.data[index])), size: 5 },
    ...(each.dashed && { dash: [5, 4], width: 1.2 }),
  }));
  return new uPlot({
    width: Math.max(200, place.clientWidth),
    height: HEIGHT,
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, sync: sync ? { key: sync } : undefined, drag: { x: true, y: false } },
    scales: { x: { time: false }, y: { distr: log ? 3 : 1, range: range || (log ? (plot, low, high) => logarithmic(low, high) : undefined) } },
    axes: axes(log),
    series: [{}, ...lines],
    bands: series.flatMap((each, index) => (each.edge === "high" ? [{ series: [index + 1, index], fill: colour("--band") }] : [])),
  }, data, place);
}

/** Those with figures; after each with a band its edges, `low` and then `high`, which are not drawn themselves. */
function withEdges(series) {
  const shown = series.filter((each) => each.values.some((value) => value !== null)).map((each, index) => ({ colour: index, ...each }));
  return shown.flatMap((each) => [each, ...(each.low ? ["low", "high"] : []).map((edge) => ({ ...each, edge, values: each[edge] }))]);
}

/**
 * One chart. `series`: [{label, steps, values, low?, high?, points?, dashed?, colour?}], with a band from `low` to `high`;
 * `log`, `range` for the values; `title` and `text` say what it shows.
 */
export function Chart({ title, text, series, log, range, sync }) {
  const place = useRef(), plot = useRef(), shape = useRef("");
  const [night, setNight] = useState(dark.matches);
  const shown = withEdges(series);
  const data = align(shown);
  useEffect(() => {
    if (!shown.length) return;
    const wanted = JSON.stringify([shown.map((each) => [each.label, each.edge]), night, log]);
    if (wanted !== shape.current) {
      plot.current?.destroy();
      plot.current = make(place.current, shown, data, { log, range, sync });
      shape.current = wanted;
    } else plot.current.setData(data);
  });
  // Other effects are undone some time after the page has gone, and an observer of what has gone would call until then.
  useLayoutEffect(() => {
    let frame;
    const box = place.current;
    const fit = new ResizeObserver(() => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => plot.current?.setSize({ width: Math.max(200, box.clientWidth), height: HEIGHT }));
    });
    fit.observe(box);
    const follow = () => setNight(dark.matches);
    dark.addEventListener("change", follow);
    return () => {
      cancelAnimationFrame(frame);
      fit.disconnect();
      dark.removeEventListener("change", follow);
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, []);
  const named = shown.filter((each) => !each.edge);
  const last = (each) => each.values[each.values.length - 1];
  const said = named.map((each) => `${each.label} ${figure(last(each))}`).join(", ");
  return html`<figure class="card chart">
    <header class="stack tight"><div class="row between"><h2>${title}</h2>
      <div class="legend">${named.map((each) => html`<span class=${`c${each.colour % 4}`}><i></i><span class="soft">${each.label}</span> <b>${figure(last(each))}</b></span>`)}</div></div></header>
    <div class="plot" ref=${place} data-points=${data[0].length} role="img" aria-label=${`${title}. ${said || "No figures yet."}`}></div>
    ${!shown.length && html`<p class="soft small">No figures yet.</p>`}
    <figcaption class="soft small">${text}</figcaption>
  </figure>`;
}

/** A curve of a few points, without axes. */
export function Spark({ values, label }) {
  if (!values || values.length < 2) return html`<span class="spark"></span>`;
  const low = Math.min(...values), span = Math.max(...values) - low || 1;
  const path = values.map((value, index) => `${index ? "L" : "M"}${((index / (values.length - 1)) * 130 + 1).toFixed(1)},${(33 - ((value - low) / span) * 30).toFixed(1)}`).join("");
  return html`<svg class="spark" viewBox="0 0 132 36" preserveAspectRatio="none" role="img" aria-label=${label}><path d=${path} /></svg>`;
}
