"""Plots of the speed benchmarks: seconds of a job by way, and waiting times over workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, MUTED, RULE = "#1f6fb2", "#e07b00", "#6b6b6b", "#e4e4e4"


def draw_peers(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """A bar for each way: its time for a job over that of what it is compared with."""
    figure, axes = new_axes(0.6 + 0.42 * len(lines))
    places = range(len(lines))
    ours = [line["way"].startswith("SGG") for line in lines]
    axes.barh(places, [line["ratio"] for line in lines], color=[BLUE if own else ORANGE for own in ours], height=0.6)
    axes.axvline(1.0, color=MUTED, linewidth=1)
    axes.set_yticks(places, [line["way"] if line["jobs"] == 1 else f"{line['way']} ({line['jobs']})" for line in lines])
    for place, line in zip(places, lines, strict=True):
        axes.annotate(f" {line['ratio']:.2f}", (line["ratio"], place), va="center", fontsize=8, color=MUTED)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(line["ratio"] for line in lines))
    axes.set_xlabel("time of a job, SGG one after another as 1 (SetFit: SGG's whole job as 1)", fontsize=9)
    axes.grid(axis="x", color=RULE)
    _write(figure, path)


def draw_cluster(lines: Sequence[dict[str, Any]], target: float, path: Path) -> None:
    """Waiting times over the number of workers; the fewest that keep the target are marked."""
    figure, axes = new_axes(3.6)
    workers = [line["workers"] for line in lines]
    for key, color, label in (("wait_p95", ORANGE, "p95"), ("wait_p50", BLUE, "p50")):
        axes.plot(workers, [line[key] for line in lines], marker="o", markersize=4, color=color, label=label)
    axes.axhline(target, color=MUTED, linewidth=1, linestyle=":", label="target of p95")
    (needed,) = [line["workers"] for line in lines if line["needed"]]
    axes.axvline(needed, color=MUTED, linewidth=1)
    axes.set_yscale("symlog", linthresh=max(target, 1.0))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"workers ({needed} are needed)", fontsize=9)
    axes.set_ylabel("seconds until a job begins", fontsize=9)
    axes.grid(axis="y", color=RULE)
    axes.legend(frameon=False, fontsize=8)
    _write(figure, path)


def new_axes(height: float) -> tuple[Figure, Any]:
    """A figure of this height in inches, with axes whose grid lies behind what is drawn."""
    figure = Figure(figsize=(7.2, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    return figure, axes


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
