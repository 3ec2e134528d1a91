"""The seam between the training loop and the kinds of tasks: encode once, then losses of a few items at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from sgg_core.backbone import LoadedBase
from sgg_core.encoding import Encoded
from sgg_core.shapes import Example


@dataclass(frozen=True)
class LossSum:
    """Sum of the losses of some items (a scalar with graph), how many units it is over, and how many were right."""

    total: Tensor
    units: int
    correct: int


class Task(Protocol):
    """One way to train and use a base model. Losses are means over units: examples, or trained tokens for SFT."""

    base: LoadedBase
    labels: tuple[str, ...]

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Token ids and targets of examples."""

    def units(self, items: Sequence[Encoded]) -> int:
        """How many units the loss of `items` is a mean over."""

    def loss(self, items: Sequence[Encoded]) -> LossSum:
        """Summed loss of items that fit one forward pass."""

    def head(self) -> nn.Module | None:
        """Trainable weights beside the adapter, or None."""

    def passes(self, items: Sequence[Encoded], scoring: bool = False) -> Iterator[list[int]]:
        """Indices of `items` in groups that fit one forward pass each, for `loss` or for `log_probabilities`."""

    def positions(self, items: Sequence[Encoded], scoring: bool = False) -> list[int]:
        """How many tokens each of those passes computes."""

    def shown(self, item: Encoded) -> list[tuple[int, bool]]:
        """The tokens of an example in their order, each with whether it is trained."""

    def log_probabilities(self, items: Sequence[Encoded]) -> Tensor:
        """(B, L) log p(label), or (units, V) of the trained tokens, of items that fit one forward pass, on the CPU."""

    def template(self) -> str | None:
        """What the model is shown around a text, for people and other tools; None where texts are shown as they are."""
