import io
import re

import pytest
from rich.console import Console

from cli.progress import Figures, LineView, LiveView, Pace, absorb, duration


def test_figures_name_only_what_is_known():
    assert Figures(step=2, total_steps=8).line() == "step 2/8"
    full = Figures(2, 8, 0.5, 1.0, 0.875, 1.234, -0.25, 125)
    assert full.line() == "step 2/8  loss 0.500  acc 1.00  val 0.88  |g| 1.23  cos -0.25  2:05 left"


def test_a_metrics_event_replaces_what_it_holds_and_keeps_the_rest():
    step = {"step": 3, "total_steps": 9, "train_loss": 0.5, "gradient_norm": 2.0, "reference_cosine": None}
    figures = absorb(absorb(Figures(cosine=0.5), step), {"step": 3, "valid_accuracy": 0.9, "valid_loss": 1.0})
    assert figures == Figures(step=3, total_steps=9, loss=0.5, gradient_norm=2.0, cosine=0.5, valid_accuracy=0.9)


def test_an_evaluation_of_one_of_several_trainings_does_not_turn_the_progress_back():
    figures = absorb(Figures(), {"step": 8, "total_steps": 12, "train_loss": 0.5})
    figures = absorb(figures, {"step": 7, "valid_loss": 1.0, "valid_accuracy": 0.9})
    assert figures == Figures(step=8, total_steps=12, loss=0.5, valid_accuracy=0.9)


def test_time_left_follows_the_pace_since_the_first_look():
    seconds = iter([100.0, 104.0, 110.0])
    pace = Pace(clock=lambda: next(seconds))
    assert pace.seconds_left(Figures(step=10, total_steps=20)) is None
    assert pace.seconds_left(Figures(step=12, total_steps=20)) == pytest.approx(16.0)
    assert pace.seconds_left(Figures(step=20, total_steps=20)) == 0.0


def test_a_run_that_went_back_to_a_checkpoint_is_paced_anew():
    seconds = iter([100.0, 101.0, 103.0])
    pace = Pace(clock=lambda: next(seconds))
    pace.seconds_left(Figures(step=10, total_steps=20))
    assert pace.seconds_left(Figures(step=5, total_steps=20)) is None
    assert pace.seconds_left(Figures(step=6, total_steps=20)) == pytest.approx(28.0)


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0s"), (59, "59s"), (61, "1:01"), (3725, "1:02:05"), (-1, "0s")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_lines_are_printed_only_when_something_changed(capsys):
    view = LineView()
    with view:
        for _ in range(3):
            view.show("queued", Figures())
        view.show("running", Figures(step=1, total_steps=2, loss=1.0))
        view.show("running", Figures(step=1, total_steps=2, loss=1.0))
    assert capsys.readouterr().out.splitlines() == ["queued", "running: step 1/2  loss 1.000"]


def test_control_characters_from_the_server_do_not_reach_the_terminal(capsys):
    LineView().note("bad \x1b[2Jtext")
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_live_bar_shows_everything_on_two_lines_of_a_narrow_terminal(width):
    screen = io.StringIO()
    with LiveView(Console(file=screen, force_terminal=True, width=width, color_system=None)) as view:
        view.note("word " * 30)
        view.show("running", Figures(12345, 67890, 12.345, 1.0, 0.875, 123.456, -0.25, 37250))
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;?]*\w", "", screen.getvalue()).splitlines() if line.strip()]
    assert re.fullmatch(r"running [━╸╺ ]{20} 12345/67890 10:20:50 left", lines[-2])
    assert lines[-1] == "loss 12.345  acc 1.00  val 0.88  |g| 123.46  cos -0.25"
    assert all(len(line) <= width and not line.startswith("ord") for line in lines)


def test_a_run_that_ended_has_no_time_left():
    assert Figures(8, 8, 0.5, seconds_left=0.0).line() == "step 8/8  loss 0.500"


def test_time_that_passes_between_two_steps_is_no_new_line(capsys):
    view = LineView()
    for seconds in (9.0, 8.0, 7.0):
        view.show("running", Figures(step=1, total_steps=3, seconds_left=seconds))
    view.show("running", Figures(step=2, total_steps=3, seconds_left=6.0))
    assert capsys.readouterr().out.splitlines() == ["running: step 1/3  9s left", "running: step 2/3  6s left"]
