"""What a worker and its fork server say to each other."""

from __future__ import annotations

import struct
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from sgg_core.reporting import Message
from worker.messages import Ready

REQUEST = struct.Struct("=Q")
"""A request: a number. With it come the streams of the trainer that shall have it, or none: then it is let go."""
STREAMS = 3
"""Standard input, output and error."""


class Born(Message):
    """The trainer of this number is there, and leads a process group of its own."""

    type: Literal["born"] = "born"
    number: int
    pid: int


class Ended(Message):
    """The trainer of this number has ended; -N after signal N, as in `subprocess`. Its id is not free yet."""

    type: Literal["ended"] = "ended"
    number: int
    exit_code: int


ForkMessage = Annotated[Ready | Born | Ended, Field(discriminator="type")]
fork_message_adapter: TypeAdapter[ForkMessage] = TypeAdapter(ForkMessage)
