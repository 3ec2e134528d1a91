"""Several trainings that differ in their seed alone, one after another, and the adapter of the best of them.

Steps are counted through all of them. What the finished ones left goes along in every checkpoint of the next ones, so
that a killed run goes on at the seed that it was at.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from sgg_core.files import whole_directory
from sgg_core.report import REPORT, TrainingReport
from sgg_core.reporting import (
    AnyMessage,
    CheckpointSaved,
    Control,
    EvaluationMetrics,
    Finished,
    Notice,
    Reporter,
    Started,
    StepMetrics,
    Stopped,
)
from sgg_core.spec import TrainingSpec
from sgg_core.spread import SeedOutcome, best, spread

OUTCOMES, KEPT = "seeds.json", "kept.tar"


class Outcomes(BaseModel):
    """Content of seeds.json in a checkpoint: what the seeds before reached."""

    runs: list[SeedOutcome]


class OneSeed(Protocol):
    """Trains with one seed, into a directory."""

    def __call__(
        self,
        spec: TrainingSpec,
        reporter: Reporter,
        output: Path,
        resume_from: Path | None,
        steps_before: int,
        carry: Callable[[Path], None],
    ) -> Finished | Stopped:
        """`steps_before` counts those of the seeds before; `carry` writes into each checkpoint what they left."""


class Shifted:
    """A reporter of one seed, whose steps are told as those of the whole."""

    def __init__(self, reporter: Reporter, before: int, total: int) -> None:
        self._reporter, self._before, self._total = reporter, before, total

    def report(self, message: AnyMessage) -> None:
        """Pass the message on."""
        self._reporter.report(self.moved(message))

    def control(self) -> Control:
        """Pass the question on."""
        return self._reporter.control()

    def moved(self, message: AnyMessage) -> AnyMessage:
        """The message with its steps counted from the first seed's first one."""
        if isinstance(message, Notice):
            return message
        if isinstance(message, Started):
            first = message.first_step + self._before
            return message.model_copy(update={"first_step": first, "total_steps": self._total})
        moved = {"step": message.step + self._before}
        if isinstance(message, StepMetrics):
            return message.model_copy(update={**moved, "total_steps": self._total})
        if isinstance(message, CheckpointSaved):
            metrics = {**message.metrics, "step": float(moved["step"])}
            return message.model_copy(update={**moved, "metrics": metrics})
        assert isinstance(message, EvaluationMetrics | Finished | Stopped)
        return message.model_copy(update=moved)


def train_seeds(
    spec: TrainingSpec,
    steps: int,
    one: OneSeed,
    *,
    output: Path,
    reporter: Reporter,
    resume_from: Path | None,
    finish: Callable[[Path, TrainingReport], None],
) -> Finished | Stopped:
    """Train `spec` with as many seeds as it wants, of `steps` steps at most each, and give the best one's adapter.

    `finish` completes its directory, given the report that tells of all seeds.
    """
    count = spec.optimization.seeds
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-seeds-", dir=output.parent) as scratch:
        kept = Path(scratch) / "kept"
        runs = _left_by(resume_from, kept)
        begin = resume_from
        for number in range(len(runs), count):
            chosen = spec.model_copy(update={"seed": (spec.seed + number) % 2**31})
            reporter.report(Notice(message=f"Seed {chosen.seed}, {number + 1} of {count}."))
            shifted = Shifted(reporter, number * steps, count * steps)
            work = Path(scratch) / f"seed-{number}"
            ended = one(chosen, shifted, work, begin, number * steps, Carry(tuple(runs), kept))
            if isinstance(ended, Stopped):
                return ended.model_copy(update={"step": ended.step + number * steps})
            begin = None
            runs.append(_outcome(_report_in(work)))
            if best(runs) == number:
                shutil.rmtree(kept, ignore_errors=True)
                work.rename(kept)
        report = _report_in(kept).model_copy(update={"seeds": spread(runs)})
        finish(kept, report)
        with whole_directory(output) as place:
            shutil.copytree(kept, place, dirs_exist_ok=True)
    assert report.seeds is not None
    reporter.report(Notice(message=report.seeds.verdict))
    return Finished(
        step=(count - 1) * steps + runs[-1].steps,
        trained_tokens=sum(run.trained_tokens for run in runs),
        stopped_early=report.stopped_early,
        directory=str(output),
    )


class Carry:
    """Writes into a checkpoint what the seeds before have left."""

    def __init__(self, runs: tuple[SeedOutcome, ...], kept: Path) -> None:
        self._runs, self._kept = runs, kept

    def __call__(self, directory: Path) -> None:
        """Write seeds.json, and the best adapter so far as an archive."""
        if not self._runs:
            return
        (directory / OUTCOMES).write_text(Outcomes(runs=list(self._runs)).model_dump_json(), encoding="utf-8")
        with tarfile.open(directory / KEPT, "w") as archive:
            archive.add(self._kept, arcname=".")


def _left_by(checkpoint: Path | None, kept: Path) -> list[SeedOutcome]:
    """What a checkpoint carries of the seeds before; unpacks their best adapter."""
    if checkpoint is None or not (checkpoint / OUTCOMES).exists():
        return []
    with tarfile.open(checkpoint / KEPT) as archive:
        archive.extractall(kept, filter="data")
    return Outcomes.model_validate_json((checkpoint / OUTCOMES).read_bytes()).runs


def _report_in(directory: Path) -> TrainingReport:
    return TrainingReport.model_validate_json((directory / REPORT).read_bytes())


def _outcome(report: TrainingReport) -> SeedOutcome:
    return SeedOutcome(
        seed=report.seed,
        steps=report.steps,
        trained_tokens=report.trained_tokens,
        train_loss=report.final.train_loss,
        valid_loss=report.final.valid_loss,
        valid_accuracy=report.final.valid_accuracy,
    )
