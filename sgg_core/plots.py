"""Pictures of a run from its messages and its report. The same ones give the same bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from PIL import Image

from sgg_core.evidence import Baseline, Calibration
from sgg_core.report import TrainingReport
from sgg_core.reporting import EvaluationMetrics, StepMetrics

INK, MUTED, RULE = "#222222", "#6b6b6b", "#e4e4e4"
BLUE, ORANGE, RED = "#1f6fb2", "#d9730d", "#c0392b"
COLOR_NAMES = {INK: "ink", MUTED: "muted", RULE: "rule", BLUE: "blue", ORANGE: "orange", RED: "red"}
SMOOTHING = 0.8
SIZE_INCHES, DOTS_PER_INCH = (7.2, 4.0), 130


def pictures(messages: Sequence[StepMetrics | EvaluationMetrics], report: TrainingReport) -> dict[str, Figure]:
    """The figures that a report shows, by name: loss, gradient_norm, cosines, and where known differences, calibration.

    Works without a report's own figures, too, as long as there are messages.
    """
    steps = [message for message in messages if isinstance(message, StepMetrics)]
    evaluations = [message for message in messages if isinstance(message, EvaluationMetrics)]
    figures = {
        "loss": loss_figure(steps, evaluations),
        "gradient_norm": gradient_norm_figure(steps),
        "cosines": cosines_figure(steps),
    }
    if report.baselines:
        figures["differences"] = differences_figure(report.baselines)
    if report.calibration is not None:
        figures["calibration"] = calibration_figure(report.calibration)
    return figures


def write_plots(figures: Mapping[str, Figure], directory: Path) -> list[Path]:
    """Write each figure as NAME.png to `directory`, made if it is missing; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        # not savefig: it draws everything once more to find out about margins, which are set
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # none of it is transparent
        drawn.save(path, dpi=(DOTS_PER_INCH, DOTS_PER_INCH), compress_level=2)
    return paths


def drawing(figure: Figure) -> str:
    """A figure as an <svg> element whose colours are those of the page around it, by CSS variables."""
    stream = io.StringIO()
    salt = hashlib.sha256(figure.axes[0].get_title(loc="left").encode()).hexdigest()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": ["sans-serif"]}):
        for background in (figure.patch, *(axes.patch for axes in figure.axes)):
            background.set_alpha(0)
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    text = stream.getvalue()
    for color, name in COLOR_NAMES.items():
        text = text.replace(color, f"var(--{name})")
    return text[text.index("<svg") :]


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
    axes.yaxis.set_minor_locator(NullLocator())  # nothing is drawn there, which takes time all the same
    axes.plot([step.step for step in steps], norms, color=BLUE, linewidth=1.5, marker=".", markersize=4, label="|g|")
    clipped = [step for step in steps if step.clipped]
    if clipped:
        label = f"clipped ({len(clipped)} of {len(steps)} steps)"
        numbers, heights = [step.step for step in clipped], [step.gradient_norm for step in clipped]
        axes.scatter(numbers, heights, marker="v", s=46, color=RED, zorder=3, label=label)
    if positive and max(positive) < 30 * min(positive):  # less than two decades: label the numbers in between
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
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


def differences_figure(baselines: Sequence[Baseline]) -> Figure:
    """The adapter's accuracy less that of each baseline in points, or its loss less theirs, with the 95 % interval."""
    found = [baseline.comparison for baseline in baselines]
    of_accuracy = found[0].measure == "accuracy"
    figure, axes = _axes(f"Difference in {found[0].measure}, 95 % interval", "")
    height = 1.4 + 0.5 * len(baselines)
    figure.set_size_inches(SIZE_INCHES[0], height)
    figure.subplots_adjust(left=0.25, top=1 - 0.4 / height, bottom=0.6 / height)
    rows, scale = range(len(baselines)), 100 if of_accuracy else 1
    middle = [scale * one.difference for one in found]
    reach = [
        [scale * (one.difference - one.low) for one in found],
        [scale * (one.high - one.difference) for one in found],
    ]
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.errorbar(middle, rows, xerr=reach, fmt="o", color=BLUE, markersize=7, linewidth=2, capsize=4)
    axes.set_yticks(rows, [f"against {baseline.name.replace('_', ' ')}" for baseline in baselines])
    axes.set_ylim(len(baselines) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    better = "points of accuracy that the adapter is better by" if of_accuracy else "nats a token, below 0 it is better"
    axes.set_xlabel(better, color=MUTED)
    return figure


def calibration_figure(calibration: Calibration) -> Figure:
    """How often answers were right, over how sure they were; on the diagonal probabilities mean what they say."""
    figure, axes = _axes("Confidence and accuracy", "share of right answers")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    bins = calibration.bins
    largest = max(one.examples for one in bins)
    sizes = [20 + 180 * one.examples / largest for one in bins]
    axes.scatter([one.confidence for one in bins], [one.accuracy for one in bins], s=sizes, color=BLUE, alpha=0.8)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.03)
    axes.tick_params(axis="x", pad=7)  # both axes begin with 0.0
    axes.set_xlabel("mean confidence of the answers (size: how many)", color=MUTED)
    return figure


def _axes(title: str, ylabel: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, facecolor="white")
    # where margins, title and labels are is said, for to measure it takes longer than to draw
    figure.subplots_adjust(left=0.1, right=0.985, top=0.9, bottom=0.13)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", y=1, fontsize=12, fontweight="bold", color=INK)
    axes.xaxis.set_label_coords(0.5, 0.02, figure.transFigure)
    axes.yaxis.set_label_coords(0.005, 0.5, figure.transFigure)
    axes.set_xlabel("optimizer step", color=MUTED, va="bottom")
    axes.set_ylabel(ylabel, color=MUTED, va="top")  # turned by a quarter: to the right of its place
    axes.tick_params(colors=MUTED, which="both", length=0, bottom=False, left=False)  # numbers alone, no marks
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    if title.startswith(("Loss", "Gradient")):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _finished(figure: Figure, axes: Any) -> Figure:
    """Put the legend above the plot, where it hides no point."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=8.5, labelcolor=INK)
    return figure
