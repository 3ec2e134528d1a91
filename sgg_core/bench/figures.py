"""Plots of benchmarks: accuracy over shots, stability, alignment, the parts alone and together, and waiting times."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from sgg_core.bench.cells import Row
from sgg_core.bench.speed_figures import new_axes
from sgg_core.bench.start import CASES, JobTimes, jobs_of
from sgg_core.bench.start import Row as StartRow
from sgg_core.bench.tables import groups, interval, paired

COLOURS = ("#1f6fb2", "#e07b00", "#2f8f46", "#c23b3b", "#7b5bb0", "#7a5a44", "#d46aa8", "#6b6b6b", "#a3a52e", "#2aa7b8")
MARKERS = "os^D"  # one for each time that the colours are used up
FIRST = ("lora", "sgg")
PARTS = ("lora_clip", "lora_contrast", "sgg_magnitude", "sgg_direction", "sgg", "sgg_every_1")


def write_figures(rows: Sequence[Row], baseline: str, directory: Path) -> list[Path]:
    """Write the PNGs that the rows allow; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    made = {
        "accuracy.png": _by_task(rows, "accuracy, mean over seeds (95 %)", lambda row: row.accuracy, (0.0, 1.0)),
        "stability.png": _by_task(
            rows, "std of the step-to-step change of log|g|", lambda row: row.log_norm_change_std, (0.0, math.inf)
        ),
        "alignment.png": _by_task(
            rows, "cosine to held-out gradients", lambda row: row.directional_alignment, (-1.0, 1.0)
        ),
        "ablation.png": _ablation(rows, baseline),
    }
    written = []
    for name, figure in made.items():
        if figure is not None:
            figure.savefig(directory / name, metadata={"Software": None})
            written.append(directory / name)
    return written


def write_start_figure(rows: Sequence[StartRow], path: Path) -> None:
    """Write a PNG of what `sgg bench start` measured: each job's times from its POST, by kind of job and base model."""
    groups_of_jobs = [
        (f"{case}\n{base_model}", jobs) for case in CASES for base_model, jobs in jobs_of(rows, case).items()
    ]
    figure, axes = _axes("", "seconds from the job's POST")
    told: tuple[tuple[str, Callable[[JobTimes], float]], ...] = (
        ("training begins", lambda job: job.training),
        ("first step", lambda job: job.first_step),
        ("adapter downloaded", lambda job: job.adapter),
    )
    for number, (label, time) in enumerate(told):
        points = [(time(job), -place) for place, (_, jobs) in enumerate(groups_of_jobs) for job in jobs]
        axes.plot(*zip(*points, strict=True), "o", color=COLOURS[number], alpha=0.6, markersize=5, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.grid(axis="x", color="#e4e4e4")
    axes.set_yticks([-place for place in range(len(groups_of_jobs))], [name for name, _ in groups_of_jobs], fontsize=8)
    axes.set_ylim(0.5 - len(groups_of_jobs), 0.5)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, metadata={"Software": None})


def _by_task(
    rows: Sequence[Row], label: str, value: Callable[[Row], float | None], bounds: tuple[float, float]
) -> Figure | None:
    """A panel for each task and base model, with the methods' means over seeds and their intervals, by shots.

    Nothing is averaged over tasks, since not every method has run on all of them. Methods with less than half as many
    numbers of shots as the one that has most are left out: a heap of points over one number says less than the table.
    """
    panels: dict[str, dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in rows:
        found = value(row)
        if found is not None and not row.source:
            panels[f"{row.task}, {row.base_model}"][row.method][row.shots].append(found)
    if not panels:
        return None
    shots_of: dict[str, set[int]] = defaultdict(set)
    for by_method in panels.values():
        for method, by_shots in by_method.items():
            shots_of[method] |= set(by_shots)
    most = max(map(len, shots_of.values()))
    shown = [method for method, shots in shots_of.items() if 2 * len(shots) >= most]
    methods = sorted(shown, key=lambda method: (method not in FIRST, method))  # of one colour in every figure
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * lines + 0.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, by_method) in enumerate(sorted(panels.items()), start=1):
        axes = figure.add_subplot(lines, columns, place)
        axes.set_title(name, fontsize=8)
        axes.grid(axis="y", color="#e4e4e4")
        shots = sorted({count for method in methods for count in by_method[method]})
        axes.set_xticks(range(len(shots)), [str(count) for count in shots])
        axes.set_xlim(-0.5, len(shots) - 0.5)
        for number, method in enumerate(methods):
            spans = {count: interval(values, *bounds) for count, values in sorted(by_method[method].items())}
            at = [shots.index(count) + 0.6 * ((number + 0.5) / len(methods) - 0.5) for count in spans]
            means = [span.mean for span in spans.values()]
            below = [0.0 if span.low is None else span.mean - span.low for span in spans.values()]
            above = [0.0 if span.high is None else span.high - span.mean for span in spans.values()]
            colour, mark = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
            axes.errorbar(
                at,
                means,
                [below, above],
                fmt=f"{mark}-",
                markersize=4,
                linewidth=0.8,
                elinewidth=1.2,
                color=colour,
                label=method,
            )
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(6, len(names)), fontsize=8, frameon=False)
    figure.supylabel(label, fontsize=9)
    figure.supxlabel("examples a label", fontsize=9)
    return figure


def _ablation(rows: Sequence[Row], baseline: str) -> Figure | None:
    """Paired differences of the parts to the baseline, with their intervals: over the cells that all of them have."""
    settings = groups(rows).values()
    parts = [part for part in PARTS if any(part in methods for methods in settings)]
    differences: dict[str, list[float]] = {part: [] for part in parts}
    for methods in settings:
        seeds = set.intersection(*({*methods.get(name, {})} for name in (*parts, baseline)))
        for part in parts:
            differences[part] += paired({seed: methods[part][seed] for seed in seeds}, methods.get(baseline, {}))
    found = {part: interval(values) for part, values in differences.items() if values}
    if len(found) < 2:
        return None
    figure, axes = _axes(f"accuracy less {baseline}, paired", "")
    for place, span in enumerate(found.values()):
        if span.low is not None and span.high is not None:
            axes.plot([place, place], [span.low, span.high], color="#1f6fb2")
        axes.plot(place, span.mean, marker="o", color="#1f6fb2")
    axes.axhline(0, color="#6b6b6b", linewidth=1)
    axes.set_xticks(range(len(found)), list(found))
    return figure


def _axes(ylabel: str, xlabel: str) -> tuple[Figure, Any]:
    figure, axes = new_axes(4.4)
    axes.set_ylabel(ylabel)
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", color="#e4e4e4")
    return figure, axes
