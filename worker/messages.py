"""What the worker and its trainer child say to each other: one JSON object a line. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from sgg_core.catalogue import BaseModelEntry
from sgg_core.reporting import (
    CheckpointSaved,
    Control,
    EvaluationMetrics,
    Finished,
    Message,
    Notice,
    Started,
    StepMetrics,
    Stopped,
)
from sgg_core.spec import TrainingSpec


class InputFile(Message):
    """A data file in the scratch directory, and the name its owner gave it (errors speak of that one)."""

    path: Path
    filename: str


class Warm(Message):
    """Load this base model now, so that the next job finds it loaded."""

    type: Literal["warm"] = "warm"
    base_model: BaseModelEntry


class Train(Message):
    """Train once. `run` numbers the trainings of a child, so that a late `Steer` never reaches the next one.

    With `shared`, further ones may come while it runs, and all make their passes together; without, it runs alone.
    Other base models stay in memory while all of them have at most `keep_bytes`. As many replicas train at once as
    `memory_bytes` suffice for, beside those.
    """

    type: Literal["train"] = "train"
    run: int
    spec: TrainingSpec
    base_model: BaseModelEntry
    training: InputFile
    validation: InputFile | None = None
    sources: tuple[InputFile, ...] = ()
    retention: InputFile | None = None
    output: Path
    checkpoints: Path
    resume_from: Path | None = None
    start_from: Path | None = None
    shared: bool = False
    keep_bytes: int = 0
    memory_bytes: int = 0
    log_context: dict[str, str | int] = Field(default_factory=dict)  # ids that the child's log carries meanwhile


Wish = Control | Literal["abandon"]


class Steer(Message):
    """End training `run` before its next step, with a checkpoint; or, if it has not ended yet, go on after all.

    With `abandon` it ends at its next pass, saves nothing and says nothing.
    """

    type: Literal["steer"] = "steer"
    run: int
    action: Wish


Command = Annotated[Warm | Train | Steer, Field(discriminator="type")]
command_adapter: TypeAdapter[Command] = TypeAdapter(Command)


class Ready(Message):
    """The child is idle and takes commands. `base_models` are those in its memory, the one used last at the end."""

    type: Literal["ready"] = "ready"
    base_models: tuple[str, ...] = ()


class GpuMemory(Message):
    """Bytes of the trainer's GPU: in its tensors, kept by its allocator, in use by all processes, and in total."""

    allocated: int
    reserved: int
    used: int
    total: int


class Alive(Message):
    """Training moves, though it has nothing to say: sent while the trainer asks whether to go on."""

    type: Literal["alive"] = "alive"
    gpu_memory: GpuMemory | None = None  # None where training is not on a GPU
    peak_bytes: int  # the most memory that the trainer took since it was idle
    beside_bytes: int = 0  # of it, what the base models take that nobody trains on now


class Unshared(Message):
    """The training goes on by itself: its base model mixes the rows of a batch, so that no job shares a pass on it.

    `waits` where another one trains there; then it has not begun, and this is its last message.
    """

    type: Literal["unshared"] = "unshared"
    waits: bool = False


INTERNAL_ERROR = "internal_error"  # the code of an error that no class of sgg_core.errors describes


class Failed(Message):
    """Training `run` ended in an error, or a `Warm` did (then `run` is None).

    `code` and `users_fault` are those of the error's class in sgg_core.errors, if it has one.
    """

    type: Literal["failed"] = "failed"
    run: int | None
    code: str
    message: str
    users_fault: bool


class Said(Message):
    """What training `run` has to say."""

    type: Literal["said"] = "said"
    run: int
    message: Annotated[
        Notice | Started | StepMetrics | EvaluationMetrics | CheckpointSaved | Finished | Stopped | Alive | Unshared,
        Field(discriminator="type"),
    ]


TrainerMessage = Annotated[Said | Ready | Failed, Field(discriminator="type")]
trainer_message_adapter: TypeAdapter[TrainerMessage] = TypeAdapter(TrainerMessage)
