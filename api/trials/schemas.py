"""Trials in requests and answers: OpenAI's shapes for chat and completion, one of our own for classification."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator, model_validator

from api.schemas import Out
from sgg_core.trials import ChatTrial, ClassificationTrial, CompletionTrial, Sampling, TextPair, Turn

MOST_CHARACTERS = 16_000
"""Of one text, and of all texts of a request together."""
Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
Words = Annotated[Text, Field(min_length=1, pattern=r"\S")]
Prompt = Annotated[Text, Field(min_length=1)]
StopText = Annotated[str, Field(min_length=1, max_length=100)]
Name = Annotated[str, Field(min_length=1, max_length=300)]
UNSAID = ("refusal", "annotations", "audio", "function_call", "tool_calls", "name")
"""What OpenAI's clients write into a message as null or empty where it has none, as in an answer that is sent back."""


class In(BaseModel):
    """Base of all requests: unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class StreamOptionsIn(In):
    """How to stream."""

    include_usage: StrictBool = False
    """Whether a last chunk tells the number of tokens."""


class SamplingIn(In):
    """What chat and completion have in common."""

    model: Name
    """A base model of the catalogue, or a fine-tuned one."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 always takes the likeliest token; by default 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed gives the same text; drawn by the worker if it is left out."""
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptionsIn | None = None

    def sampling(self, max_tokens: int) -> Sampling:
        """Translate, with at most `max_tokens` to be written."""
        return Sampling(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
        )


class TextPartIn(In):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class MessageIn(In):
    """One turn. The role `developer` is another word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPartIn], Field(min_length=1, max_length=64)]
    name: None = None
    """OpenAI's clients name speakers here; no base model is shown that."""

    @field_validator("name", mode="before")
    @classmethod
    def _without_name(cls, name: object) -> None:
        raise ValueError("Names of speakers are not supported: leave `name` out")

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_unsaid(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value or name not in UNSAID}

    def turn(self) -> Turn:
        """Translate."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Turn(role="system" if self.role == "developer" else self.role, content=text)


class ChatIn(SamplingIn):
    """A request for the assistant's next turn."""

    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=64)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """OpenAI's newer name of `max_tokens`."""

    def trial(self, max_tokens: int) -> ChatTrial:
        """Translate."""
        turns = tuple(message.turn() for message in self.messages)
        return ChatTrial(messages=turns, sampling=self.sampling(max_tokens))

    def characters(self) -> int:
        """Count those of all texts."""
        return sum(len(message.turn().content) for message in self.messages)


class CompletionIn(SamplingIn):
    """A request to go on after a prompt."""

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=1)]
    """One text, or a list with one text in it."""

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]

    def trial(self, max_tokens: int) -> CompletionTrial:
        """Translate."""
        return CompletionTrial(prompt=self.text, sampling=self.sampling(max_tokens))

    def characters(self) -> int:
        """Count those of all texts."""
        return len(self.text)


class TextPairIn(In):
    """A text, or two of them."""

    text: Words
    text_pair: Words | None = None


class ClassificationIn(In):
    """A request for labels."""

    model: Name
    """A base model of the catalogue, or a fine-tuned one."""
    input: Words | Annotated[list[Words | TextPairIn], Field(min_length=1, max_length=32)]
    """One text, or several, or pairs of texts."""
    labels: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(min_length=2, max_length=100)] | None
    ) = None
    """For base models only, which have none of their own."""
    description: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """A sentence that tells a base model what to do."""

    def trial(self) -> ClassificationTrial:
        """Translate."""
        given = [self.input] if isinstance(self.input, str) else self.input
        return ClassificationTrial(
            inputs=tuple(
                TextPair(text=each) if isinstance(each, str) else TextPair(text=each.text, text_pair=each.text_pair)
                for each in given
            ),
            labels=tuple(self.labels or ()),
            description=self.description,
        )

    def characters(self) -> int:
        """Count those of all texts."""
        return sum(len(each.text) + len(each.text_pair or "") for each in self.trial().inputs)


class UsageOut(Out):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ReplyOut(Out):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoiceOut(Out):
    """The one answer that there is."""

    index: Literal[0] = 0
    message: ReplyOut
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatOut(Out):
    """An answered chat."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[ChatChoiceOut]
    usage: UsageOut


class CompletionChoiceOut(Out):
    """The one answer that there is."""

    index: Literal[0] = 0
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class CompletionOut(Out):
    """A completed prompt."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: tuple[CompletionChoiceOut]
    usage: UsageOut


class LabelledOut(Out):
    """The likeliest label of one input, and the probabilities of all labels."""

    index: int
    label: str
    probabilities: dict[str, float]


class ClassificationOut(Out):
    """Classified inputs, in their order."""

    id: str
    object: Literal["classification"] = "classification"
    created: int
    model: str
    results: tuple[LabelledOut, ...]
    usage: UsageOut
