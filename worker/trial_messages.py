"""What the worker and its predictor child say to each other: one JSON object a line. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from sgg_core.catalogue import BaseModelEntry
from sgg_core.reporting import Message
from sgg_core.trials import Trial, TrialAnswer, TrialFailure
from worker.messages import Ready


class Ask(Message):
    """Answer a trial with a base model and an adapter's directory, or without. `run` numbers the trials of a child."""

    type: Literal["ask"] = "ask"
    run: int
    base_model: BaseModelEntry
    adapter: Path | None
    data: Path | None = None
    """A directory with the files that the trial is about, by their roles."""
    trial: Trial
    log_context: dict[str, str | int] = Field(default_factory=dict)


class Stop(Message):
    """Nobody waits for the answer to trial `run` any more."""

    type: Literal["stop"] = "stop"
    run: int


class Told(Message):
    """The answer to trial `run` as far as it is known; `over` says that it is all."""

    type: Literal["told"] = "told"
    run: int
    answer: TrialAnswer
    over: bool


class Refused(Message):
    """There is no answer to trial `run`."""

    type: Literal["refused"] = "refused"
    run: int
    failure: TrialFailure


PredictorCommand = Annotated[Ask | Stop, Field(discriminator="type")]
predictor_command_adapter: TypeAdapter[PredictorCommand] = TypeAdapter(PredictorCommand)
PredictorMessage = Ready | Told | Refused
predictor_message_adapter: TypeAdapter[PredictorMessage] = TypeAdapter(
    Annotated[PredictorMessage, Field(discriminator="type")]
)
