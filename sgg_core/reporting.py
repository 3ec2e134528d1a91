"""What a training run says while it runs, as messages that survive a pipe, and the seam it says them through."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Control = Literal["continue", "cancel", "pause", "drain"]


class Message(BaseModel):
    """Base of all messages: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Notice(Message):
    """Something a person should know: a truncated text, a clipped gradient, a source that hurts."""

    type: Literal["notice"] = "notice"
    level: Literal["info", "warn", "error"] = "info"
    message: str


class ReferenceSeconds(Message):
    """What parts of a whole run take on the reference machine, with the base model loaded (see sgg_core.estimate).

    `steps` are the steps that StepMetrics tell of, `passes` all else that is in proportion to tokens, `fixed` what is
    paid whatever the data: fetching, checkpoints, proof, packaging.
    """

    steps: float
    passes: float
    fixed: float


class MemoryNeed(Message):
    """Bytes that a run holds at its peak (see sgg_core.estimate), those that runs on one base model share apart."""

    shared: int  # the process and the base model
    adapter: int  # a replica's weights, gradients and copies of them: in proportion to the rank
    passes: int  # what a replica's largest pass keeps until the backward pass
    replicas: int = 1  # that are trained at once

    @property
    def own(self) -> int:
        """What the run adds to others on the same base model."""
        return self.replicas * (self.adapter + self.passes)

    @property
    def alone(self) -> int:
        """What it needs by itself."""
        return self.shared + self.own

    def replicas_within(self, available: int) -> int:
        """How many replicas so many bytes suffice for at once, at least one."""
        return max(1, (available - self.shared) // max(1, self.adapter + self.passes))


class Started(Message):
    """Training is about to take its first step (or the first one after a resume)."""

    type: Literal["started"] = "started"
    first_step: int
    total_steps: int
    trainable_parameters: int
    learning_rates: tuple[float, ...]  # their peaks, of all that are trained at once
    batch_size: int
    epochs: int
    reference: ReferenceSeconds | None = None  # of all replicas together
    memory: MemoryNeed | None = None


class StepMetrics(Message):
    """One optimizer step. Norms and cosines are of the raw target gradient, before clipping and guidance.

    That gradient is taken at the step's parameters, with the variant `momentum` at those displaced by its correction.
    Projected figures are those of the full-weight gradient on the tangent space of the adapter (docs/method.md): they
    can be compared between runs, ranks and scalings. Cosines of noisy gradients grow with the batch.
    """

    type: Literal["step"] = "step"
    step: int  # counts from 1
    total_steps: int
    epoch: float
    train_loss: float
    train_accuracy: float  # share of the batch's examples (classification) or tokens (SFT) that were right
    learning_rate: float
    gradient_norm: float
    reference_cosine: float | None = None  # cos(g, d); None while there is no reference yet
    clipped: bool = False
    source_cosine: float | None = None  # cos(g_T, g_S); None without source files
    source_weight: float | None = None
    projected_gradient_norm: float | None = None
    projected_reference_cosine: float | None = None
    projected_source_cosine: float | None = None
    seconds: float
    tokens: int  # real tokens of the batch, padding not counted
    replica: int | None = None  # whose step it is, counted from 0, where several are trained; steps count through all


class EvaluationMetrics(Message):
    """Figures on the validation set after `step` steps. Accuracy is over examples, or over tokens for SFT."""

    type: Literal["evaluation"] = "evaluation"
    step: int
    valid_loss: float
    valid_accuracy: float | None = None
    valid_macro_f1: float | None = None
    examples: int


def checkpoint_name(step: int, compared: bool = False) -> str:
    """Name of a checkpoint's directory: sorts by step.

    After the last step there may be two: that with what plain LoRA reached does not take the other's name, from which
    somebody may still read.
    """
    return f"step-{step:08d}{'-compared' if compared else ''}"


class CheckpointSaved(Message):
    """A complete checkpoint lies in `directory` (fsynced, renamed into place)."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    directory: str
    metrics: dict[str, float]  # the newest figures under OpenAI's names: step, train_loss, valid_loss, ...
    compared: bool = False  # the one of the last step, saved once more with what plain LoRA reached


class Finished(Message):
    """The run ended by itself; the output directory is complete and verified."""

    type: Literal["finished"] = "finished"
    step: int
    trained_tokens: int
    stopped_early: bool
    directory: str


class Stopped(Message):
    """The run ended because `Reporter.control` said so, after writing the checkpoint in `directory`."""

    type: Literal["stopped"] = "stopped"
    reason: Literal["cancel", "pause", "drain"]
    step: int
    directory: str | None


AnyMessage = Annotated[
    Notice | Started | StepMetrics | EvaluationMetrics | CheckpointSaved | Finished | Stopped,
    Field(discriminator="type"),
]
message_adapter: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)


class Reporter(Protocol):
    """Receives what a run says, and is asked before every step whether to go on."""

    def report(self, message: AnyMessage) -> None:
        """Take one message. Must not block for long: training waits for it."""

    def control(self) -> Control:
        """Answer `continue`, or why to end after a checkpoint: `cancel`, `pause` (to go on later) or `drain`."""


class Wish:
    """What a reporter wanted when it was asked last; nothing before that but to go on."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.last: Control = "continue"

    def may_go_on(self) -> bool:
        """Ask."""
        self.last = self._reporter.control()
        return self.last == "continue"


class SilentReporter:
    """Keeps every message and never stops the run. For notebooks and tests."""

    def __init__(self) -> None:
        self.messages: list[AnyMessage] = []

    def report(self, message: AnyMessage) -> None:
        """Remember the message."""
        self.messages.append(message)

    def control(self) -> Control:
        """Go on, always."""
        return "continue"
