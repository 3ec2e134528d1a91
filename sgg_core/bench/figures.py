"""Plots of an accuracy benchmark: accuracy over shots, stability, alignment, and the parts alone and together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sgg_core.bench.cells import Row
from sgg_core.bench.tables import bootstrap, groups, paired

PARTS = ("lora_clip", "sgg_magnitude", "sgg_direction", "sgg")


def write_figures(rows: Sequence[Row], baseline: str, directory: Path) -> list[Path]:
    """Write the PNGs that the rows allow; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    made = {
        "accuracy.png": _by_shots(rows, "mean accuracy over the tasks", lambda row: row.accuracy),
        "stability.png": _by_shots(
            rows, "std of the step-to-step change of log|g|", lambda row: row.log_norm_change_std
        ),
        "alignment.png": _by_shots(rows, "cosine to held-out gradients", lambda row: row.directional_alignment),
        "ablation.png": _ablation(rows, baseline),
    }
    written = []
    for name, figure in made.items():
        if figure is not None:
            figure.savefig(directory / name, metadata={"Software": None})
            written.append(directory / name)
    return written


def _by_shots(rows: Sequence[Row], label: str, value: Callable[[Row], float | None]) -> Figure | None:
    """A line for each method and base model; only methods that have the value."""
    lines: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found = value(row)
        if found is not None and not row.source:
            lines[f"{row.method}, {row.base_model}"][row.shots].append(found)
    if not lines:
        return None
    figure, axes = _axes(label, "examples a label")
    for name, by_shots in sorted(lines.items()):
        shots = sorted(by_shots)
        axes.plot(shots, [fmean(by_shots[count]) for count in shots], marker="o", markersize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.legend(fontsize=7, ncols=2, frameon=False)
    return figure


def _ablation(rows: Sequence[Row], baseline: str) -> Figure | None:
    """Paired differences of the parts to the baseline, over all tasks and shots, with their intervals."""
    found = {}
    for part in PARTS:
        differences = [d for methods in groups(rows).values() for d in paired(methods[part], methods[baseline])]
        if differences:
            found[part] = bootstrap(differences)
    if not found:
        return None
    figure, axes = _axes(f"accuracy less {baseline}, paired", "")
    for place, (_, interval) in enumerate(found.items()):
        axes.plot([place, place], [interval.low, interval.high], color="#1f6fb2")
        axes.plot(place, interval.mean, marker="o", color="#1f6fb2")
    axes.axhline(0, color="#6b6b6b", linewidth=1)
    axes.set_xticks(range(len(found)), list(found))
    return figure


def _axes(ylabel: str, xlabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(7.2, 4.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_ylabel(ylabel)
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", color="#e4e4e4")
    return figure, axes
