"""Training progress as a person sees it: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from cli.output import console, printable, say


@dataclass(frozen=True, slots=True)
class Figures:
    """The newest figures of a run; None where there is none yet. `accuracy` is of the step's own batch."""

    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    valid_accuracy: float | None = None
    gradient_norm: float | None = None
    cosine: float | None = None
    seconds_left: float | None = None

    def line(self) -> str:
        """Return everything as one line of plain text."""
        total = "?" if self.total_steps is None else self.total_steps
        return "  ".join(filter(None, (f"step {self.step}/{total}", *self.parts(), self.time_left())))

    def time_left(self) -> str:
        """Return the time left in words, empty if it is not known or over."""
        return f"{duration(self.seconds_left)} left" if self.seconds_left else ""

    def parts(self) -> list[str]:
        """Return loss, accuracies, |g| and cosine, those that are known."""
        shown = (
            None if self.loss is None else f"loss {self.loss:.3f}",
            None if self.accuracy is None else f"acc {self.accuracy:.2f}",
            None if self.valid_accuracy is None else f"val {self.valid_accuracy:.2f}",
            None if self.gradient_norm is None else f"|g| {self.gradient_norm:.2f}",
            None if self.cosine is None else f"cos {self.cosine:+.2f}",
        )
        return [part for part in shown if part is not None]


class ProgressView(Protocol):
    """Shows a run. Use it as a context manager; `note` prints a sentence above the figures."""

    def __enter__(self) -> ProgressView: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, state: str, figures: Figures) -> None:
        """Show the newest figures; `state` is one word such as `running`."""

    def note(self, text: str) -> None:
        """Print a sentence that stays."""


class LiveView:
    """A progress bar with the figures below it, redrawn in place. Both lines fit on a narrow terminal."""

    def __init__(self, screen: Console | None = None) -> None:
        columns = (
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._progress = Progress(*columns)
        self._task: TaskID = self._progress.add_task("", total=None, left="")
        self._figures = Text(no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._progress, self._figures), console=screen or console())

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, state: str, figures: Figures) -> None:
        """Redraw the bar."""
        self._progress.update(
            self._task,
            description=state,
            completed=figures.step,
            total=figures.total_steps,
            left=figures.time_left(),
        )
        self._figures.plain = "  ".join(figures.parts())

    def note(self, text: str) -> None:
        """Print a sentence above the bar."""
        self._live.console.print(printable(text))


class LineView:
    """A line for each new step, for logs and pipes."""

    def __init__(self) -> None:
        self._last: tuple[str, Figures] | None = None

    def __enter__(self) -> LineView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stdout.flush()

    def show(self, state: str, figures: Figures) -> None:
        """Print a line if anything but the time left has changed."""
        news = state, dataclasses.replace(figures, seconds_left=None)
        if news != self._last:
            self._last = news
            self.note(f"{state}: {figures.line()}" if figures.total_steps else state)

    def note(self, text: str) -> None:
        """Print a line now."""
        say(text)
        sys.stdout.flush()


def absorb(figures: Figures, data: dict[str, Any]) -> Figures:
    """Return the figures with those of a metrics event taken over.

    Of several trainings at once each is evaluated, after a step that the others have left behind: only messages that
    know the number of all steps tell how far the run is.
    """
    names = {
        "step": "step",
        "total_steps": "total_steps",
        "train_loss": "loss",
        "train_accuracy": "accuracy",
        "valid_accuracy": "valid_accuracy",
        "gradient_norm": "gradient_norm",
        "reference_cosine": "cosine",
    }
    new = {field: data[name] for name, field in names.items() if data.get(name) is not None}
    if "total_steps" not in new:
        new.pop("step", None)
    return dataclasses.replace(figures, **new)


class Pace:
    """Time left, from the steps taken since this was made; a restart of the run begins anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def seconds_left(self, figures: Figures) -> float | None:
        """Return the seconds until the last step at the pace so far; None while there is no pace yet."""
        if not figures.step or figures.total_steps is None:
            return None
        now = self._clock()
        if self._first is None or figures.step < self._first[0]:
            self._first = figures.step, now
        done = figures.step - self._first[0]
        if done == 0:
            return None
        return (now - self._first[1]) / done * (figures.total_steps - figures.step)


def open_view() -> ProgressView:
    """Return a live bar when standard output is a terminal, lines otherwise."""
    return LiveView() if sys.stdout.isatty() else LineView()


def duration(seconds: float) -> str:
    """Return seconds as 8s, 2:05 or 1:02:05."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
