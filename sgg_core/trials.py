"""Trials: one question to a base model or an adapter, and its answer. What the edges and the predictor exchange."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from sgg_core.errors import Problem, SpecError
from sgg_core.estimate import Workload
from sgg_core.reporting import Message
from sgg_core.shapes import Role
from sgg_core.spec import TrainingSpec

TASK = "task.json"
"""File beside a checkpoint's weights with what they do not tell: a TaskSpec."""


class TrialError(SpecError):
    """A trial cannot be answered, and the caller can change that. `param` is the request's parameter at fault."""

    code: ClassVar[str] = "invalid_value"

    def __init__(self, message: str, remedy: str = "", param: str | None = None) -> None:
        super().__init__(message, remedy)
        self.param = param

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.remedy, self.param)


class WrongEndpointError(TrialError):
    """The model answers another kind of question."""

    code = "wrong_endpoint"


class ContextLengthError(TrialError):
    """The prompt alone has more tokens than the base model can see."""

    code = "context_length_exceeded"


class Sampling(Message):
    """How text is written. Temperature 0 always takes the likeliest token."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Turn(Message):
    """One turn of a conversation."""

    role: Role
    content: str


class TextPair(Message):
    """A text, or two of them, to be classified."""

    text: str
    text_pair: str | None = None


class ChatTrial(Message):
    """Write the assistant's next turn."""

    type: Literal["chat"] = "chat"
    messages: tuple[Turn, ...]
    sampling: Sampling


class CompletionTrial(Message):
    """Go on after a prompt."""

    type: Literal["completion"] = "completion"
    prompt: str
    sampling: Sampling


class ClassificationTrial(Message):
    """Give each text a label: one of the adapter's, or of `labels` on a bare base model."""

    type: Literal["classification"] = "classification"
    inputs: tuple[TextPair, ...]
    labels: tuple[str, ...] = ()
    description: str | None = None


class PreviewTrial(Message):
    """Show what a training would show the base model of a file's first examples, and which parts it would train.

    `filename` is for messages; the bytes come beside the trial, as `training`.
    """

    type: Literal["preview"] = "preview"
    spec: TrainingSpec
    filename: str
    limit: int


class SurveyTrial(Message):
    """Read a training's files as the trainer does: what is wrong with them, and what it would have to compute.

    `filenames` are by role: `training`, `validation`, `source0` and so on, `retention`; the bytes come beside the
    trial, alike.
    """

    type: Literal["survey"] = "survey"
    spec: TrainingSpec
    filenames: dict[str, str]


class WrittenText(Message):
    """What was written so far; `finish_reason` tells that, and why, it is all."""

    type: Literal["text"] = "text"
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"] | None = None


class GivenLabels(Message):
    """The labels, and for each input their probabilities in the same order."""

    type: Literal["labels"] = "labels"
    labels: tuple[str, ...]
    probabilities: tuple[tuple[float, ...], ...]
    prompt_tokens: int


class Segment(Message):
    """A piece of what the model is shown; `trained`: the loss is over its tokens."""

    text: str
    trained: bool


class PreviewedExample(Message):
    """One example. `problem` says why a training would refuse it."""

    line: int
    segments: tuple[Segment, ...]
    label: str | None
    tokens: int
    trained_tokens: int
    truncated: bool
    problem: Problem | None = None


class Preview(Message):
    """The first examples as the base model sees them. `trained` tells in words what the loss is over."""

    type: Literal["preview"] = "preview"
    trained: str
    examples: tuple[PreviewedExample, ...]


class SurveyedFile(Message):
    """One file. `tokens` are those of all its examples; problems are errors, warnings only suspicions."""

    examples: int
    labels: dict[str, int]
    tokens: int
    truncated: int
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


class Survey(Message):
    """The files by role, and the run's work; None where problems keep it from being known."""

    type: Literal["survey"] = "survey"
    files: dict[str, SurveyedFile]
    workload: Workload | None
    trained_tokens: int


class TrialFailure(Message):
    """Why a trial has no answer. `param` is the request's parameter at fault, where the caller can change it."""

    code: str
    message: str
    users_fault: bool
    param: str | None = None


Trial = Annotated[
    ChatTrial | CompletionTrial | ClassificationTrial | PreviewTrial | SurveyTrial, Field(discriminator="type")
]
TrialAnswer = Annotated[WrittenText | GivenLabels | Preview | Survey, Field(discriminator="type")]
trial_adapter: TypeAdapter[Trial] = TypeAdapter(Trial)
trial_answer_adapter: TypeAdapter[TrialAnswer] = TypeAdapter(TrialAnswer)
