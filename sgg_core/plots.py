"""Pictures of a run from its messages: loss, gradient norm, cosines. The same messages give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from sgg_core.reporting import EvaluationMetrics, StepMetrics

INK, MUTED, RULE = "#222222", "#6b6b6b", "#e4e4e4"
BLUE, ORANGE, RED = "#1f6fb2", "#d9730d", "#c0392b"
SMOOTHING = 0.8
SIZE_INCHES, DOTS_PER_INCH = (7.2, 4.0), 130


def write_plots(messages: Sequence[StepMetrics | EvaluationMetrics], directory: Path) -> list[Path]:
    """Write loss.png, gradient_norm.png and cosines.png to `directory`, made if it is missing; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    steps = [message for message in messages if isinstance(message, StepMetrics)]
    evaluations = [message for message in messages if isinstance(message, EvaluationMetrics)]
    figures = {
        "loss.png": loss_figure(steps, evaluations),
        "gradient_norm.png": gradient_norm_figure(steps),
        "cosines.png": cosines_figure(steps),
    }
    for name, figure in figures.items():
        figure.savefig(directory / name, metadata={"Software": None})
    return [directory / name for name in figures]


def smoothed(values: Sequence[float], decay: float = SMOOTHING) -> list[float]:
    """Moving average with exponential weights, corrected for its start (Kingma and Ba 2015, section 3)."""
    average, result = 0.0, []
    for count, value in enumerate(values, start=1):
        average = decay * average + (1 - decay) * value
        result.append(average / (1 - decay**count))
    return result


def loss_figure(steps: Sequence[StepMetrics], evaluations: Sequence[EvaluationMetrics]) -> Figure:
    """Training loss of every batch and its moving average, and the validation loss where it was measured."""
    figure, axes = _axes("Loss", "mean loss")
    numbers, losses = [step.step for step in steps], [step.train_loss for step in steps]
    axes.plot(
        numbers, losses, color=BLUE, alpha=0.3, linewidth=1, marker=".", markersize=4, label="training, per batch"
    )
    axes.plot(numbers, smoothed(losses), color=BLUE, linewidth=2, label="training, moving average")
    if evaluations:
        where, seen = [message.step for message in evaluations], [message.valid_loss for message in evaluations]
        axes.plot(where, seen, color=ORANGE, linewidth=1.5, marker="o", markersize=6, label="validation")
        last, offset = (where[-1], seen[-1]), (0, 8)
        axes.annotate(f"{seen[-1]:.3f}", last, offset, textcoords="offset points", ha="center", color=ORANGE)
    axes.set_ylim(bottom=0)
    return _finished(figure, axes)


def gradient_norm_figure(steps: Sequence[StepMetrics]) -> Figure:
    """Norm of the raw gradient on a logarithmic axis; steps whose gradient was clipped are marked."""
    figure, axes = _axes("Gradient norm", "|g| before clipping (log scale)")
    norms = [step.gradient_norm for step in steps]
    positive = [norm for norm in norms if norm > 0]
    axes.set_yscale("log" if positive else "linear")
    axes.plot([step.step for step in steps], norms, color=BLUE, linewidth=1.5, marker=".", markersize=4, label="|g|")
    clipped = [step for step in steps if step.clipped]
    if clipped:
        label = f"clipped ({len(clipped)} of {len(steps)} steps)"
        numbers, heights = [step.step for step in clipped], [step.gradient_norm for step in clipped]
        axes.scatter(numbers, heights, marker="v", s=46, color=RED, zorder=3, label=label)
    if positive and max(positive) < 30 * min(positive):  # less than two decades: label the numbers in between
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(min(positive) / 1.5, max(positive) * 1.5)
    return _finished(figure, axes)


def cosines_figure(steps: Sequence[StepMetrics]) -> Figure:
    """Cosine of the gradient to the reference direction, and to the source gradient where there are source files."""
    figure, axes = _axes("Gradient direction", "cosine")
    series = {
        "to the reference direction": (BLUE, [(step.step, step.reference_cosine) for step in steps]),
        "to the source gradient": (ORANGE, [(step.step, step.source_cosine) for step in steps]),
    }
    axes.axhline(0, color=MUTED, linewidth=1)
    axes.set_ylim(-1, 1)
    for label, (color, points) in series.items():
        known = [(number, cosine) for number, cosine in points if cosine is not None]
        if known:
            numbers, cosines = zip(*known, strict=True)
            axes.plot(numbers, cosines, color=color, linewidth=1.5, marker=".", markersize=4, label=label)
    if not axes.get_legend_handles_labels()[0]:
        axes.text(0.5, 0.6, "no cosine was measured in this run", transform=axes.transAxes, ha="center", color=MUTED)
    return _finished(figure, axes)


def _axes(title: str, ylabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.set_xlabel("optimizer step", color=MUTED)
    axes.set_ylabel(ylabel, color=MUTED)
    axes.tick_params(colors=MUTED, which="both", length=0)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _finished(figure: Figure, axes: Any) -> Figure:
    """Put the legend above the plot, where it hides no point."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure
