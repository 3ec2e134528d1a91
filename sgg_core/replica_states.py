"""Where each of several replicas stands, in memory and as a checkpoint of all of them.

Such a checkpoint holds replicas.json (figures of those that have ended, of folds all that their runs said, steps and
figures of those that go on),
replicas.tar (the best adapter of the former in kept/, a checkpoint of each of the latter in a directory named by its
number) and sha256.json. Beside them lies the adapter of the best one of those that go on, for runs that start from it.
"""

from __future__ import annotations

import math
import shutil
import tarfile
from pathlib import Path

from pydantic import BaseModel

from sgg_core.adapter_file import ADAPTER, CONFIG
from sgg_core.checkpoint import SCALARS, check_seal, seal
from sgg_core.cross_validation import FoldOutcome
from sgg_core.errors import CheckpointError
from sgg_core.files import whole_directory
from sgg_core.identity import RunIdentity
from sgg_core.report import REPORT, TrainingReport
from sgg_core.reporting import CheckpointSaved, checkpoint_name
from sgg_core.spec import TrainingSpec
from sgg_core.spread import Outcome, best

STATES, ARCHIVE, KEPT = "replicas.json", "replicas.tar", "kept"


class SavedStates(BaseModel):
    """Content of replicas.json, by the replicas' numbers."""

    ended: dict[int, Outcome]
    folds: dict[int, FoldOutcome] = {}
    going_on: dict[int, CheckpointSaved]


class Begun(BaseModel):
    """What state.json says of a run's beginning."""

    identity: RunIdentity


class ReplicaStates:
    """What replicas have left in the directory `place`, which is this object's own."""

    def __init__(self, place: Path) -> None:
        self.kept = place / KEPT
        """What the best one of those that have ended has delivered."""
        self.ended: dict[int, Outcome] = {}
        """Of those that train on all examples."""
        self.folds: dict[int, FoldOutcome] = {}
        """Of those that train on a part of them and have ended."""
        self.going_on: dict[int, CheckpointSaved] = {}
        """The newest checkpoint of each replica that has one and has not ended."""
        self.written: Path | None = None  # the newest checkpoint of all
        self._place = place
        self._holds = (-1, 0)  # what that checkpoint knows: steps, and of how many trainings the comparison

    @property
    def all_ended(self) -> set[int]:
        """The numbers of all that have ended."""
        return self.ended.keys() | self.folds.keys()

    @property
    def steps(self) -> int:
        """Steps of all replicas together, as far as they are saved."""
        ended = sum(run.steps for run in self.ended.values()) + sum(fold.steps for fold in self.folds.values())
        return ended + sum(saved.step for saved in self.going_on.values())

    @property
    def trained_tokens(self) -> int:
        """Of all that have ended."""
        runs = sum(run.trained_tokens for run in self.ended.values())
        return runs + sum(fold.trained_tokens for fold in self.folds.values())

    def step_of(self, number: int) -> int:
        """The step that a replica goes on after."""
        return self.going_on[number].step if number in self.going_on else 0

    def directory_of(self, number: int) -> Path | None:
        """The checkpoint that a replica goes on from."""
        return Path(self.going_on[number].directory) if number in self.going_on else None

    def save(self, number: int, saved: CheckpointSaved) -> None:
        """Take over a replica's checkpoint, and remove the one before."""
        before = self.directory_of(number)
        self.going_on[number] = saved
        if before is not None and before != Path(saved.directory):
            shutil.rmtree(before)

    def end(self, number: int, delivered: Path) -> None:
        """Take over what a replica has delivered, and remove what is not the best."""
        report = report_in(delivered)
        self.ended[number] = Outcome(
            seed=report.seed,
            learning_rate=report.learning_rate,
            steps=report.steps,
            trained_tokens=report.trained_tokens,
            train_loss=report.final.train_loss,
            valid_loss=report.final.valid_loss,
            valid_accuracy=report.final.valid_accuracy,
        )
        self._forget(number)
        numbers = sorted(self.ended)
        worse = delivered
        leading = best([self.ended[each] for each in numbers])
        if leading is not None and numbers[leading] == number:
            worse = self._place / "worse"
            if self.kept.exists():
                self.kept.rename(worse)
            delivered.rename(self.kept)
        shutil.rmtree(worse, ignore_errors=True)

    def judge(self, number: int, outcome: FoldOutcome) -> None:
        """Take over what a fold's run has come to."""
        self.folds[number] = outcome
        self._forget(number)

    def leave_out(self, number: int, outcome: Outcome) -> None:
        """Count a replica that has diverged as ended."""
        self.ended[number] = outcome
        self._forget(number)

    def write(self, checkpoints: Path) -> CheckpointSaved | None:
        """Write a checkpoint of all below `checkpoints`: whole or not at all. None if it knew no more than the last.

        A replica that goes on without a checkpoint of its own begins anew. Raises DiskFullError.
        """
        going_on = sorted(self.going_on.items())
        compared = sum(saved.compared for _, saved in going_on)
        if not going_on or self._holds >= (self.steps, compared):
            return None  # where others begin after a comparison, the name of these steps is taken
        _, leading = min(going_on, key=lambda each: each[1].metrics.get("full_valid_loss", math.inf))
        target = checkpoints / checkpoint_name(self.steps, compared > 0)
        with whole_directory(target) as work:
            for name in (ADAPTER, CONFIG):
                shutil.copy2(Path(leading.directory) / name, work / name)
            with tarfile.open(work / ARCHIVE, "w") as archive:
                for number, saved in going_on:
                    archive.add(saved.directory, arcname=str(number))
                if self.kept.exists():
                    archive.add(self.kept, arcname=KEPT)
            states = SavedStates(ended=self.ended, folds=self.folds, going_on=self.going_on)
            (work / STATES).write_text(states.model_dump_json(), encoding="utf-8")
            seal(work)
        self.written, self._holds = target, (self.steps, compared)
        metrics = {**leading.metrics, "step": float(self.steps)}
        return CheckpointSaved(step=self.steps, directory=str(target), metrics=metrics, compared=compared > 0)

    def read(self, checkpoint: Path) -> None:
        """Begin with what a checkpoint holds. Raises CheckpointError where it is damaged, or not of replicas."""
        try:
            check_seal(checkpoint)
            states = SavedStates.model_validate_json((checkpoint / STATES).read_bytes())
            with tarfile.open(checkpoint / ARCHIVE) as archive:
                archive.extractall(self._place, filter="data")
        except (OSError, ValueError, tarfile.TarError) as error:
            raise CheckpointError(
                f"Checkpoint {checkpoint.name} cannot be read as one of several replicas: {error}",
                "Use another one.",
            ) from error
        self.ended, self.folds = states.ended, states.folds
        self.going_on = {
            number: saved.model_copy(update={"directory": str(self._place / str(number))})
            for number, saved in states.going_on.items()
        }
        compared = sum(saved.compared for saved in self.going_on.values())
        self.written, self._holds = checkpoint, (self.steps, compared)

    def _forget(self, number: int) -> None:
        if (directory := self.directory_of(number)) is not None:
            shutil.rmtree(directory)
        self.going_on.pop(number, None)


def report_in(directory: Path) -> TrainingReport:
    """The report of a directory that a run has delivered."""
    return TrainingReport.model_validate_json((directory / REPORT).read_bytes())


def begun_with(checkpoint: Path) -> TrainingSpec:
    """The spec that the run of a checkpoint began with, of several replicas one of them.

    Raises CheckpointError where it cannot be read.
    """
    try:
        check_seal(checkpoint)
        if not (checkpoint / ARCHIVE).exists():
            content = (checkpoint / SCALARS).read_bytes()
        else:
            with tarfile.open(checkpoint / ARCHIVE) as archive:
                place = next(name for name in archive.getnames() if name.endswith(f"/{SCALARS}"))
                found = archive.extractfile(place)
                content = b"" if found is None else found.read()
        return Begun.model_validate_json(content).identity.spec
    except (OSError, ValueError, StopIteration, tarfile.TarError) as error:
        raise CheckpointError(f"Checkpoint {checkpoint.name} cannot be read: {error}", "Use an earlier one.") from error
