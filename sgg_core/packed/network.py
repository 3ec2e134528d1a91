"""One frozen network for the rows of many jobs, each row with the adapter of its own job.

The weights of the base model are in memory once. Every job has the modules around them for itself (`twin`), on which
peft puts its adapter as on any base model, and the pack has a set of its own, whose linear layers take the adapters of
all jobs as stacked factors A (J, r, n) and B (J, m, r). Smaller ranks are filled up with zeros, which add nothing and
whose gradient goes nowhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from sgg_core.adapted_linear import adapted_linear
from sgg_core.backbone import LoadedBase, Mask, hidden_states
from sgg_core.errors import SpecError
from sgg_core.lora_layers import linear_layers
from sgg_core.memory import lacks_memory
from sgg_core.packed.recorded import WIDTH_STEP, Inputs, Recordings, evened, recordable
from sgg_core.packed.stacked import Layout, StackedAdapters, as_leaves, as_matrix
from sgg_core.texts_in_rows import Texts
from sgg_core.weights import AdapterWeights


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


def twin(base: LoadedBase) -> LoadedBase:
    """Modules of their own around the same weights: an adapter on one is none on the other."""
    model = base.model
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    return replace(base, model=copied, rendezvous=None, adapter=None, resting=None, breath=None, spare=[], stacked=None)


class SharedPass:
    """One pass through the network: states (R, T, d), the adapters that it saw, and the way back."""

    def __init__(self, states: Tensor, adapters: StackedAdapters, back: Callable[[Tensor], Tensor]) -> None:
        self.states, self.adapters, self._back = states, adapters, back

    def gradients(self, slopes: Tensor) -> list[Tensor]:
        """Each member's (P), given those of the states."""
        return self.adapters.gradients(self._back(slopes))


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


def stacked_network(base: LoadedBase, targets: Sequence[str]) -> StackedNetwork:
    """That of the last pack on this base model, with what it has recorded, or a new one."""
    if base.stacked is None or base.stacked.targets != tuple(targets):
        base.stacked = StackedNetwork(base, targets)
    return base.stacked


def give_back(base: LoadedBase) -> None:
    """Free the memory of what packs keep ready, recorded passes and the adapters of their jobs; both are made again."""
    for spare in base.spare:
        spare.resting = None
    if base.stacked is not None and base.stacked.recordings is not None:
        base.stacked.recordings.clear()


class StackedNetwork:
    """The modules of packs, with adapters on the linear layers whose last names are `targets`."""

    def __init__(self, base: LoadedBase, targets: Sequence[str]) -> None:
        self.base, self.targets = twin(base), tuple(targets)
        self.pad = int(base.tokenizer.pad_token_id)
        self._layouts: dict[int, Layout] = {}
        self.recordings = Recordings(self._run) if base.device.type == "cuda" else None
        self.layers: dict[str, StackedLinear] = {}
        for name, layer in linear_layers(self.base).items():
            parent, _, last = name.rpartition(".")
            if last in targets:
                self.layers[name] = StackedLinear(layer)
                setattr(self.base.model.get_submodule(parent), last, self.layers[name])

    def forward(self, members: Sequence[Member]) -> SharedPass:
        """Last hidden states of all members' rows, in their order, T being the longest one's."""
        own, rows = [_adapter(member) for member in members], [len(member.wanted.ids) for member in members]
        adapters = StackedAdapters(self._layout(own), own, rows, self.base.products)
        step = 1 if self.recordings is None else WIDTH_STEP
        inputs = batched([each.wanted for each in members], self.pad, step)
        matrix = adapters.matrix
        if self.recordings is not None and recordable(inputs):
            inputs, matrix = evened(inputs, matrix, self.pad)
            recorded = self.recordings.of(inputs, adapters.layout, matrix)
            if recorded is not None:
                shared = SharedPass(recorded.forward(inputs, matrix), adapters, recorded.backward)
                self.recordings.lend(shared)
                return shared
        leaves = as_leaves(matrix, adapters.layout)
        try:
            states = self._run(inputs, adapters.layout, leaves)
        except RuntimeError as error:
            if self.recordings is None or not lacks_memory(error) or not self.recordings.clear():
                raise
            states = self._run(inputs, adapters.layout, leaves)  # beside what recordings had held
        return SharedPass(states, adapters, lambda slopes: as_matrix(torch.autograd.grad(states, leaves, slopes)))

    def _run(self, inputs: Inputs, layout: Layout, leaves: Sequence[Tensor]) -> Tensor:
        for name, layer in self.layers.items():
            pair = layout.pairs[name]
            layer.factors = leaves[pair.a], leaves[pair.b]
        try:
            return hidden_states(self.base, *inputs)
        finally:
            for layer in self.layers.values():
                layer.factors = None

    def _layout(self, adapters: Sequence[AdapterWeights]) -> Layout:
        """That of the largest rank."""
        largest = max(adapters, key=lambda adapter: adapter.rank)
        if largest.rank not in self._layouts:
            self._layouts[largest.rank] = Layout(largest)
        return self._layouts[largest.rank]


def batched(inputs: Sequence[PassInput], pad: int, step: int = 1) -> Inputs:
    """One batch of the rows of all inputs, padded on the right to a multiple of `step`.

    Rows without types are of type 0, as for the model; texts in rows are padded as little as possible.
    """
    width = max(each.ids.shape[1] for each in inputs)
    if not any(isinstance(each.mask, Texts) for each in inputs):
        width = -(-width // step) * step
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


def _adapter(member: Member) -> AdapterWeights:
    assert member.base.adapter is not None
    return member.base.adapter
