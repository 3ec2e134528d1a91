"""Plots of the speed benchmarks: ratios by way, jobs an hour over the size of packs, waiting times over workers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, MUTED, RULE = "#1f6fb2", "#e07b00", "#6b6b6b", "#e4e4e4"


def draw_peers(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """A bar for each way: its time for a job over that of what it is compared with."""
    bars = [
        (
            line["way"] if line["jobs"] == 1 else f"{line['way']} ({line['jobs']})",
            line["ratio"],
            line["way"].startswith("SGG"),
        )
        for line in lines
    ]
    _draw_ratios(bars, "time of a job, SGG one after another as 1 (SetFit: SGG's whole job as 1)", path)


def draw_overhead(lines: Sequence[dict[str, Any]], peers: Collection[str], path: Path) -> None:
    """A bar for each way to train: its time for a step over that of plain LoRA. `peers` are not SGG's ways."""
    bars = [(line["way"], line["seconds_ratio"], line["way"] not in peers) for line in lines]
    _draw_ratios(bars, "time of a step, plain LoRA as 1", path)


def draw_throughput(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Jobs an hour over the number of jobs, trained together and one after the other."""
    figure, axes = new_axes(3.6)
    lines = sorted(lines, key=lambda line: int(line["jobs"]))
    jobs = [line["jobs"] for line in lines]
    for key, color, label in (
        ("jobs_an_hour", BLUE, "together"),
        ("jobs_an_hour_one_by_one", ORANGE, "one after the other"),
    ):
        axes.plot(jobs, [line[key] for line in lines], marker="o", markersize=4, color=color, label=label)
    axes.set_xticks(jobs)
    axes.set_ylim(0, 1.12 * max(max(line["jobs_an_hour"], line["jobs_an_hour_one_by_one"]) for line in lines))
    axes.set_xlabel("jobs in a pack", fontsize=9)
    axes.set_ylabel("jobs an hour", fontsize=9)
    axes.grid(axis="y", color=RULE)
    axes.legend(frameon=False, fontsize=8)
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
    axes.set_xlabel(f"workers ({needed} needed)", fontsize=9)
    axes.set_ylabel("seconds until a job begins", fontsize=9)
    axes.grid(axis="y", color=RULE)
    axes.legend(frameon=False, fontsize=8)
    _write(figure, path)


def _draw_ratios(bars: Sequence[tuple[str, float, bool]], told: str, path: Path) -> None:
    """Bars of a label, a ratio, and whether it is SGG's own; `told` says what the ratios are."""
    figure, axes = new_axes(0.6 + 0.42 * len(bars))
    labels, ratios, ours = zip(*bars, strict=True)
    axes.barh(range(len(bars)), ratios, color=[BLUE if own else ORANGE for own in ours], height=0.6)
    axes.axvline(1.0, color=MUTED, linewidth=1)
    axes.set_yticks(range(len(bars)), labels)
    for place, ratio in enumerate(ratios):
        axes.annotate(f" {ratio:.2f}", (ratio, place), va="center", fontsize=8, color=MUTED)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max(ratios))
    axes.set_xlabel(told, fontsize=9)
    axes.grid(axis="x", color=RULE)
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
