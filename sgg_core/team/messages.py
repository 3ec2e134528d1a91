"""What a leader tells its helpers and hears from them: one JSON object a line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from sgg_core.catalogue import BaseModelEntry
from sgg_core.encoding import Encoded
from sgg_core.guidance.passes import Kind
from sgg_core.reporting import Message
from sgg_core.spec import LoraSpec


class Start(Message):
    """The first line: the base model to load, and where the team of `size` processes meets."""

    entry: BaseModelEntry
    directory: Path
    lora: LoraSpec
    device: str
    threads: int  # of the CPU
    place: int  # in the team; the leader's is 0
    size: int
    meeting: Path


class Learn(Message):
    """A task that batches will be of. Tasks are numbered from 0, in the order in which they are told."""

    type: Literal["learn"] = "learn"
    kind: Literal["classification", "text"]
    labels: tuple[str, ...]
    description: str | None
    kinship: tuple[tuple[float, ...], ...] | None  # of labels that contrast is between; else None
    weights: int  # how many numbers its parameters hold


class Errand(Message):
    """A batch to compute a part of. The weights, and the vector of a product or a drift, come through the group."""

    type: Literal["errand"] = "errand"
    kind: Kind
    task: int
    items: tuple[Encoded, ...]
    units: int
    seed: int


Order = Annotated[Learn | Errand, Field(discriminator="type")]
order_adapter: TypeAdapter[Learn | Errand] = TypeAdapter(Order)


class Loaded(Message):
    """The helper holds the base model with this hash, and comes to the meeting."""

    type: Literal["loaded"] = "loaded"
    base_model: str


class Failed(Message):
    """The helper ends, for a reason of its own."""

    type: Literal["failed"] = "failed"
    message: str
    out_of_memory: bool


word_adapter: TypeAdapter[Loaded | Failed] = TypeAdapter(Annotated[Loaded | Failed, Field(discriminator="type")])
