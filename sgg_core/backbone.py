"""A base model in memory, and passes through it. Its weights stay frozen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from sgg_core.catalogue import BaseModelEntry
from sgg_core.halves import Halves
from sgg_core.mounted import Mounted
from sgg_core.texts_in_rows import Texts
from sgg_core.weights import AdapterWeights

if TYPE_CHECKING:
    from sgg_core.guidance.passes import Team
    from sgg_core.packed.network import StackedNetwork

# Who may look at whom: a padding mask (B, T), a full one (B, 1, T, T), or the texts that lie in each row.
Mask = Tensor | Texts


class Rendezvous(Protocol):
    """Where the training passes of jobs that share a base model meet (sgg_core.packed)."""

    def states(self, ids: Tensor, mask: Mask, positions: Tensor | None, types: Tensor | None) -> Tensor:
        """What `hidden_states` gives, as a leaf of the job's own graph."""

    def backward(self) -> None:
        """Carry the gradients of those leaves through the network, into the adapter's `grad`."""

    def rest(self, until: Callable[[], bool]) -> None:
        """Wait until another job has brought something about."""

    def breathe(self) -> None:
        """Wait until the others have made the pass that is due."""

    def bring(self, jobs: Sequence[Callable[[LoadedBase], object]]) -> list[object]:
        """Let further jobs meet there, each with a base model of its own, and wait for what they return or raise."""


@dataclass
class LoadedBase:
    """A base model in memory, ready for one adapter after another.

    `sha256` is that of the weights as loaded (after de-quantization); `directory` is where they lie. With a
    `rendezvous`, passes that are to have a gradient are made there; with a `team`, other processes help with batches.
    `adapter` is what is on it just now, `resting` what the last job has left beside it. `breath` is called wherever
    a job `breathe`s, and may end it by raising.
    """

    entry: BaseModelEntry
    model: Any  # transformers.PreTrainedModel
    tokenizer: Any  # transformers.PreTrainedTokenizerFast
    sha256: str
    directory: Path | None
    device: torch.device
    rendezvous: Rendezvous | None = None
    team: Team | None = None
    adapter: AdapterWeights | None = None
    resting: Mounted | None = None
    breath: Callable[[], None] | None = None
    halves: Halves | None = None
    """On a CPU, what products with frozen weights are computed with."""
    spare: list[LoadedBase] = field(default_factory=list)
    """Modules of their own around the same weights, for jobs that are trained together."""
    stacked: StackedNetwork | None = None
    """Those that such jobs share."""

    def breathe(self) -> None:
        """Between passes that are nobody else's and may be many: show that the job lives, and let others go on."""
        if self.breath is not None:
            self.breath()
        if self.rendezvous is not None:
            self.rendezvous.breathe()

    @property
    def hidden_size(self) -> int:
        """Width of the last hidden state."""
        return int(self.model.config.hidden_size)

    @property
    def products(self) -> torch.dtype:
        """What an adapter's own products are computed in."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return torch.bfloat16 if self.device.type == "cuda" else dtype


def _in_half_where_quicker(base: LoadedBase) -> AbstractContextManager[object]:
    if base.halves is not None:
        return base.halves.in_use()
    return torch.autocast(base.device.type, dtype=torch.bfloat16, enabled=base.device.type == "cuda")


def hidden_states(
    base: LoadedBase, ids: Tensor, mask: Mask, positions: Tensor | None = None, types: Tensor | None = None
) -> Tensor:
    """Last hidden states (B, T, d) of token ids (B, T); `Texts` need their positions."""
    if base.rendezvous is not None and torch.is_grad_enabled():
        return base.rendezvous.states(ids, mask, positions, types)
    body, extra = _body(base, mask, positions, types)
    with _in_half_where_quicker(base):
        return body(input_ids=ids, **extra).last_hidden_state  # type: ignore[no-any-return]


def backward(base: LoadedBase, loss: Tensor) -> None:
    """Add the gradient of a loss of `hidden_states` to `grad` of whatever is trained."""
    loss.backward()  # type: ignore[no-untyped-call]
    if base.rendezvous is not None:
        base.rendezvous.backward()


def layer_states(
    base: LoadedBase, ids: Tensor, mask: Mask, positions: Tensor | None = None, types: Tensor | None = None
) -> Sequence[Tensor]:
    """States (B, T, d) of the embeddings and after each layer, with masks as in `hidden_states`."""
    body, extra = _body(base, mask, positions, types)
    with _in_half_where_quicker(base):
        seen = body(input_ids=ids, output_hidden_states=True, **extra)
    return seen.hidden_states  # type: ignore[no-any-return]


def _body(base: LoadedBase, mask: Mask, positions: Tensor | None, types: Tensor | None) -> tuple[Any, dict[str, Any]]:
    """The network below the output layer, and what it is told beside the tokens."""
    causal = base.entry.kind == "causal"
    extra: dict[str, Any] = {"texts" if isinstance(mask, Texts) else "attention_mask": mask}
    if causal:
        extra["use_cache"] = False
    if positions is not None:
        extra["position_ids"] = positions
    if types is not None:
        extra["token_type_ids"] = types
    return base.model.base_model if causal else base.model, extra


def fresh_cache(base: LoadedBase) -> Any:
    """An empty cache of keys and values for `states_after`.

    It keeps all, also those out of a layer's window: what is asked after a kept text comes with masks of its own.
    """
    from transformers import DynamicCache

    return DynamicCache()


def cache_argument(body: Any) -> str:
    """What the forward pass of a transformers model calls its cache of keys and values."""
    return "cache" if "cache" in inspect.signature(body.forward).parameters else "past_key_values"  # before 5.24


def states_after(base: LoadedBase, ids: Tensor, cache: Any, **masks: Tensor) -> Tensor:
    """Last hidden states (1, T, d) of token ids (1, T) that follow those in `cache`, which takes them in, too.

    `masks` are as the model itself takes them; without any, each token sees all before it.
    """
    body = base.model.base_model
    with _in_half_where_quicker(base):
        seen = body(input_ids=ids, use_cache=True, **{cache_argument(body): cache}, **masks)
    return seen.last_hidden_state  # type: ignore[no-any-return]


def logits(base: LoadedBase, states: Tensor) -> Tensor:
    """Next-token logits (..., V) in float32 of hidden states (..., d)."""
    with _in_half_where_quicker(base):
        return base.model.get_output_embeddings()(states).float()  # type: ignore[no-any-return]
