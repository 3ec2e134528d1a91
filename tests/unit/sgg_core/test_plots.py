"""The pictures of a run: every value is drawn, the bytes depend on the messages alone, sparse runs work."""

import math
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sgg_core.evidence import Calibration, against
from sgg_core.figures import Answers, Evaluation, Losses
from sgg_core.plots import cosines_figure, drawing, gradient_norm_figure, loss_figure, pictures, smoothed, write_plots
from sgg_core.report import TrainingReport
from sgg_core.reporting import EvaluationMetrics, StepMetrics


def step(number, **changes):
    fields = {
        "step": number,
        "total_steps": 12,
        "epoch": number / 4,
        "train_loss": 2 / number,
        "train_accuracy": 0.5,
        "learning_rate": 1e-4,
        "gradient_norm": 1 + number % 3,
        "seconds": 0.1,
        "tokens": 100,
    }
    return StepMetrics(**(fields | changes))


STEPS = [step(n, clipped=n == 5, reference_cosine=None if n < 3 else n / 20) for n in range(1, 13)]
EVALUATIONS = [EvaluationMetrics(step=n, valid_loss=0.5 + 1 / n, examples=60) for n in (4, 8, 12)]


def evaluation(predicted):
    answers = Answers(gold=[0] * 10, predicted=predicted, gold_probability=[0.5] * 10, confidence=[0.5] * 10)
    return Evaluation(loss=0.5, accuracy=predicted.count(0) / 10, examples=10, answers=answers)


BARE = TrainingReport.model_construct(baselines=[], calibration=None)
JUDGED = TrainingReport.model_construct(
    baselines=[against("zero_shot", evaluation([1] * 9 + [0]), evaluation([0] * 10), "the base model")],
    calibration=Calibration.model_validate(
        {"expected_error": 0.1, "bins": [{"confidence": 0.5, "accuracy": 1.0, "examples": 10}]}
    ),
)


def written(messages, directory, report=BARE):
    return write_plots(pictures(messages, report), directory)


def line(figure, label):
    (found,) = [drawn for drawn in figure.axes[0].get_lines() if drawn.get_label() == label]
    return list(found.get_xdata()), list(found.get_ydata())


def test_readable_pictures_are_written(tmp_path):
    paths = written([*STEPS, *EVALUATIONS], tmp_path / "plots", JUDGED)
    assert [path.name for path in paths] == [
        "loss.png",
        "gradient_norm.png",
        "cosines.png",
        "differences.png",
        "calibration.png",
    ]
    for path in paths:
        height, width, _ = matplotlib.image.imread(path).shape
        assert width > 800 and height > 200


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_no_word_or_number_is_cut_at_the_edges(scale):
    sizes = [{"train_loss": scale / n, "gradient_norm": scale * (1 + n % 3)} for n in range(1, 13)]
    steps = [step(n, reference_cosine=n / 20, **sizes[n - 1]) for n in range(1, 13)]
    for name, figure in pictures([*steps, *EVALUATIONS], JUDGED).items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        (axes,) = figure.axes
        for text in (axes.xaxis.label, axes.yaxis.label, axes._left_title):
            box = text.get_window_extent(canvas.get_renderer())
            assert min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, (name, text, box)
        drawn = np.asarray(canvas.buffer_rgba())
        for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
            assert (edge == 255).all(), name  # what crosses an edge would leave ink on it


def test_the_axes_of_the_calibration_do_not_write_on_each_other():
    figure = pictures([*STEPS, *EVALUATIONS], JUDGED)["calibration"]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    along, up = (axis.get_ticklabels()[0].get_window_extent(canvas.get_renderer()) for axis in (axes.xaxis, axes.yaxis))
    assert not along.overlaps(up)


def test_differences_in_loss_are_told_in_their_own_unit():
    before, after = (
        Evaluation(loss=loss, accuracy=0.5, examples=4, losses=Losses(totals=[loss] * 4, tokens=[1] * 4))
        for loss in (2.0, 1.5)
    )
    report = TrainingReport.model_construct(baselines=[against("zero_shot", before, after, "it")], calibration=None)
    axes = pictures(STEPS, report)["differences"].axes[0]
    assert "Difference in loss" in axes.get_title(loc="left") and "below 0" in axes.get_xlabel()
    assert list(axes.get_lines()[1].get_xdata()) == [-0.5]


def test_the_bytes_depend_on_the_messages_alone(tmp_path):
    first = written([*STEPS, *EVALUATIONS], tmp_path / "a")
    second = written([*EVALUATIONS, *STEPS], tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    other = written([*STEPS[:-1], *EVALUATIONS], tmp_path / "c")
    assert other[0].read_bytes() != first[0].read_bytes()
    assert all(b"Software" not in path.read_bytes() for path in first)


def test_losses_are_drawn_where_they_were_measured():
    figure = loss_figure(STEPS, EVALUATIONS)
    assert line(figure, "training, per batch") == ([s.step for s in STEPS], [s.train_loss for s in STEPS])
    assert line(figure, "validation") == ([4, 8, 12], [e.valid_loss for e in EVALUATIONS])


def test_clipped_steps_are_marked_and_counted():
    (marks,) = gradient_norm_figure(STEPS).axes[0].collections
    assert marks.get_offsets().tolist() == [[5, 3]]
    assert "1 of 12" in marks.get_label()
    assert not gradient_norm_figure(STEPS[:4]).axes[0].collections


def test_steps_without_a_cosine_leave_a_gap_at_the_start_only():
    numbers, cosines = line(cosines_figure(STEPS), "to the reference direction")
    assert numbers == list(range(3, 13))
    assert cosines == [n / 20 for n in range(3, 13)]
    with_source = cosines_figure([step(1, source_cosine=-0.5)])
    assert line(with_source, "to the source gradient") == ([1], [-0.5])


def test_a_constant_is_its_own_moving_average_and_the_past_fades():
    assert smoothed([2.0] * 5) == pytest.approx([2.0] * 5)
    assert smoothed([]) == []
    values = smoothed([0.0, 1.0], decay=0.5)
    assert values == pytest.approx([0.0, 2 / 3])


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [step(1)],
        [step(1, gradient_norm=0.0), step(2, gradient_norm=0.0)],
        [step(n, gradient_norm=math.exp(-3 * n), train_loss=0.0) for n in range(1, 9)],
        EVALUATIONS,
    ],
)
def test_short_and_degenerate_runs_are_drawn_without_warnings(messages, tmp_path):
    assert all(path.stat().st_size > 1_000 for path in written(messages, tmp_path))


def test_a_drawing_takes_its_colours_from_the_page_and_loads_nothing():
    for figure in pictures([*STEPS, *EVALUATIONS], JUDGED).values():
        svg = drawing(figure)
        assert svg == drawing(figure) and svg.startswith("<svg") and "var(--blue)" in svg
        assert "<script" not in svg and "#1f6fb2" not in svg and "url(http" not in svg


def test_an_interval_is_drawn_where_it_lies():
    axes = pictures(STEPS, JUDGED)["differences"].axes[0]
    assert axes.containers[0].lines[0].get_xdata().tolist() == [90.0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["against zero shot"]


def test_drawing_needs_no_display_and_leaves_pyplot_alone():
    code = "import sys, sgg_core.plots; assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
