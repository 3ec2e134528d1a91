"""Training several jobs on one base model at once, each as `sgg_core.trainer.train` would train it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sgg_core.backbone import LoadedBase
from sgg_core.errors import SpecError
from sgg_core.examples import ExampleSet
from sgg_core.lora_layers import adapted_names
from sgg_core.packed.meeting import Pack
from sgg_core.packed.network import keeps_rows
from sgg_core.reporting import Finished, Reporter, Stopped
from sgg_core.spec import TrainingSpec
from sgg_core.trainer import train


@dataclass(frozen=True)
class PackedJob:
    """The arguments of `sgg_core.trainer.train`, but for the base model."""

    spec: TrainingSpec
    training: ExampleSet
    output: Path | str
    reporter: Reporter
    validation: ExampleSet | None = None
    sources: Sequence[ExampleSet] = ()
    checkpoints: Path | str | None = None
    resume_from: Path | str | None = None
    start_from: Path | str | None = None
    retention: ExampleSet | None = None

    def train(self, base: LoadedBase) -> Finished | Stopped:
        """Train it on a base model of its own."""
        return train(
            self.spec,
            base,
            self.training,
            output=self.output,
            reporter=self.reporter,
            validation=self.validation,
            sources=self.sources,
            checkpoints=self.checkpoints,
            resume_from=self.resume_from,
            start_from=self.start_from,
            retention=self.retention,
        )


def train_packed(base: LoadedBase, jobs: Sequence[PackedJob]) -> list[Finished | Stopped | Exception]:
    """Train all jobs together; what became of each, in their order: what `train` returns, or the error it raised.

    They may differ in everything but base model and lora.targets. A job that fails or is stopped leaves the others
    as they are. Memory grows with the number of jobs: the rows of all of them are in the network at once, or of some at
    a time where memory does not suffice for all.
    Raises SpecError, before anything is trained, where a job cannot be in a pack (see `check_together`).
    """
    check_together(base, [job.spec for job in jobs])
    if not jobs:
        return []
    pack = Pack(base, adapted_names(base, jobs[0].spec.lora))
    return cast("list[Finished | Stopped | Exception]", pack.run([job.train for job in jobs]))


def check_together(base: LoadedBase, specs: Sequence[TrainingSpec]) -> None:
    """Raise SpecError unless jobs with these specs can share their passes: one base model that keeps the rows of a
    batch apart, the same adapted layers, and none that must be alone (`TrainingSpec.lonely`)."""
    for number, spec in enumerate(specs):
        wrong, remedy = None, "Put it in another pack."
        if spec.base_model != base.entry.name:
            wrong = f"base_model is not {base.entry.name!r}"
        elif adapted_names(base, spec.lora) != adapted_names(base, specs[0].lora):
            wrong = "lora.targets are not those of the first job"
        elif spec.lonely is not None:
            wrong, remedy = spec.lonely[0], f"{spec.lonely[1]}, or train the job alone."
        if wrong is not None:
            raise SpecError(f"Job {number + 1} cannot be trained in a pack: {wrong}.", remedy)
    if specs and not keeps_rows(base, adapted_names(base, specs[0].lora)):
        raise SpecError(
            f"Base model {base.entry.name!r} mixes the rows of a batch, so its jobs cannot be trained in a pack.",
            "Train them one after another.",
        )
