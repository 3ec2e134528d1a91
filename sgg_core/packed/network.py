"""One frozen network for the rows of many jobs, each row with the adapter of its own job.

The weights of the base model are in memory once. Every job has the modules around them for itself (`twin`), on which
peft puts its adapter as on any base model, and the pack has a set of its own, whose linear layers take the adapters of
all jobs as stacked factors A (J, r, n) and B (J, m, r). Smaller ranks are filled up with zeros, which add nothing and
whose gradient goes nowhere.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sgg_core.adapted_linear import adapted_linear
from sgg_core.backbone import LoadedBase, Mask, Rendezvous, hidden_states, linear_layers
from sgg_core.errors import SpecError
from sgg_core.texts_in_rows import Texts


@dataclass(frozen=True)
class PassInput:
    """What `hidden_states` takes, of one job."""

    ids: Tensor  # (B, T)
    mask: Mask
    positions: Tensor | None
    types: Tensor | None


@dataclass(frozen=True)
class Member:
    """A job's base model, with its adapter on it, and what it wants to know."""

    base: LoadedBase
    wanted: PassInput


def twin(base: LoadedBase, rendezvous: Rendezvous | None = None) -> LoadedBase:
    """Modules of their own around the same weights: an adapter on one is none on the other."""
    model = base.model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return replace(base, model=copy.deepcopy(model, shared), rendezvous=rendezvous)


@dataclass(frozen=True)
class SharedPass:
    """One pass through the network: states (R, T, d) with their graph, and each member's adapter weights in it."""

    states: Tensor
    weights: Sequence[Sequence[Tensor]]


class StackedLinear(nn.Module):
    """x W^T + b + x A_j^T B_j^T over rows (R, T, n), where the rows come in equal blocks of one job j each."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.factors: tuple[Tensor, Tensor] | None = None  # (blocks, r, n) and (blocks, m, r), which holds the scale

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of all jobs at once."""
        assert self.factors is not None
        a, b = self.factors
        if rows.ndim != 3 or len(rows) % len(a):
            raise SpecError("This base model mixes the rows of a batch.", "Train its jobs one after another.")
        blocks = rows.reshape(len(a), -1, rows.shape[-1])
        if torch.is_autocast_enabled(rows.device.type):
            return self.layer(rows) + (blocks @ a.mT @ b.mT).reshape(*rows.shape[:-1], -1)  # type: ignore[no-any-return]
        return adapted_linear(blocks, self.layer, a, b, 1.0).reshape(*rows.shape[:-1], -1)


def keeps_rows(base: LoadedBase, targets: Sequence[str]) -> bool:
    """Whether the layers that get adapters see each row of a batch by itself, without which jobs cannot share a pass.

    Layers of experts, as a rule, see the tokens of all rows in one heap.
    """
    shapes: list[torch.Size] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: shapes.append(given[0].shape))
        for name, layer in linear_layers(base).items()
        if name.rpartition(".")[2] in targets
    ]
    try:
        ids = torch.zeros(2, 3, dtype=torch.long, device=base.device)
        with torch.no_grad():
            hidden_states(base, ids, torch.ones_like(ids))
    finally:
        for hook in hooks:
            hook.remove()
    return all(len(shape) == 3 and shape[0] == 2 for shape in shapes)


class StackedNetwork:
    """The pack's own modules, with adapters on the linear layers whose last names are `targets`."""

    def __init__(self, base: LoadedBase, targets: Sequence[str]) -> None:
        self.base = twin(base)
        self.pad = int(base.tokenizer.pad_token_id)
        self.forwards = 0  # passes through the network so far
        self.layers: dict[str, StackedLinear] = {}
        for name, layer in linear_layers(self.base).items():
            parent, _, last = name.rpartition(".")
            if last in targets:
                self.layers[name] = StackedLinear(layer)
                setattr(self.base.model.get_submodule(parent), last, self.layers[name])

    def forward(self, members: Sequence[Member]) -> SharedPass:
        """Last hidden states of all members' rows, in their order, T being the longest one's."""
        rows = [len(member.wanted.ids) for member in members]
        size = math.gcd(*rows)
        owners = torch.tensor(
            [n for n, count in enumerate(rows) for _ in range(count // size)], device=self.base.device
        )
        weights: list[list[Tensor]] = [[] for _ in members]
        for name, layer in self.layers.items():
            adapters = [_lora(member.base.model, name) for member in members]
            layer.factors = _factors(adapters, owners)
            for own, (a, b, _) in zip(weights, adapters, strict=True):
                own += (a, b)
        self.forwards += 1
        try:
            states = hidden_states(self.base, *batched([member.wanted for member in members], self.pad))
            return SharedPass(states, weights)
        finally:
            for layer in self.layers.values():
                layer.factors = None


def batched(inputs: Sequence[PassInput], pad: int) -> tuple[Tensor, Mask, Tensor | None, Tensor | None]:
    """One batch of the rows of all inputs, padded on the right; rows without types are of type 0, as for the model."""
    width = max(each.ids.shape[1] for each in inputs)
    ids = torch.cat([_widened(each.ids, width, pad) for each in inputs])
    mask = _one_mask([each.mask for each in inputs], width)
    positions = types = None
    if any(each.positions is not None for each in inputs):
        positions = torch.cat([_widened(each.positions, width, 0) for each in inputs if each.positions is not None])
    if any(each.types is not None for each in inputs):
        kinds = [torch.zeros_like(each.ids) if each.types is None else each.types for each in inputs]
        types = torch.cat([_widened(each, width, 0) for each in kinds])
    return ids, mask, positions, types


def _widened(rows: Tensor, width: int, filling: int) -> Tensor:
    return functional.pad(rows, (0, width - rows.shape[1]), value=filling)


def _one_mask(masks: Sequence[Mask], width: int) -> Mask:
    """That of all rows, which are of one kind, as those of one base model are."""
    texts = [mask for mask in masks if isinstance(mask, Texts)]
    if texts:
        return Texts(tuple(row for each in texts for row in each.lengths))
    return torch.cat([_widened_mask(mask, width) for mask in masks if isinstance(mask, Tensor)])


def _widened_mask(mask: Tensor, width: int) -> Tensor:
    """Nobody looks at padding but padding itself: a row that may look nowhere has no softmax."""
    if mask.ndim == 2:
        return _widened(mask, width, 0)
    more = width - mask.shape[-1]
    wide = functional.pad(mask, (0, more, 0, more))
    padding = torch.arange(width, device=mask.device) >= mask.shape[-1]
    return wide | (torch.eye(width, dtype=torch.bool, device=mask.device) & padding)


def _lora(model: Any, name: str) -> tuple[Tensor, Tensor, float]:
    """A (r, n), B (m, r) and alpha / r of the adapter on one layer of a job's model."""
    layer = model.get_submodule(name)
    (adapter,) = layer.active_adapters
    return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, float(layer.scaling[adapter])


def _factors(adapters: Sequence[tuple[Tensor, Tensor, float]], owners: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors for each block of rows, differentiable in every job's own ones."""
    rank = max(len(a) for a, _, _ in adapters)
    scales = torch.tensor([scale for _, _, scale in adapters], dtype=adapters[0][0].dtype, device=owners.device)
    stacked_a = torch.stack([functional.pad(a, (0, 0, 0, rank - len(a))) for a, _, _ in adapters])
    stacked_b = torch.stack([functional.pad(b, (0, rank - b.shape[1])) for _, b, _ in adapters])
    return stacked_a[owners], (stacked_b * scales[:, None, None])[owners]
