"""Passes of a pack on a GPU, recorded as CUDA graphs and replayed.

A pass is thousands of small kernels, and to start them one by one takes several times as long as they run. Recorded,
they start as one. A recording is of one shape: of rows, of their width and of the adapters' matrix. So that shapes come
again, passes are `evened`: filled up to one of a few numbers of rows, as they are padded to one of a few widths.

Recordings share their memory, so that one at a time can be between its forward and its backward pass. Who comes
meanwhile gets a pass that is not recorded.
"""

from __future__ import annotations

import logging
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from sgg_core.backbone import Mask
from sgg_core.packed.stacked import Layout, as_leaves, as_matrix

_log = logging.getLogger(__name__)

MOST = 8  # recordings that are kept
LATELY = 64  # passes: a recording that served one of the last ones is not given up for another
SIGHTINGS = 2  # after which a shape is recorded: a recording takes as long as some passes
WIDTH_STEP = 64  # widths are multiples of it, so that shapes come again

Inputs = tuple[Tensor, Mask, Tensor | None, Tensor | None]
"""Ids, mask, positions and types, as `hidden_states` takes them."""

Run = Callable[[Inputs, Layout, Sequence[Tensor]], Tensor]
"""A pass with these inputs, and leaves in this layout; gives the states."""


def recordable(inputs: Inputs) -> bool:
    """Whether the network asks nothing of its inputs that changes what it does: so with a mask that says all."""
    return isinstance(inputs[1], Tensor) and inputs[1].ndim == 4


def evened(inputs: Inputs, matrix: Tensor, pad: int) -> tuple[Inputs, Tensor]:
    """Inputs and adapters (blocks, P) with further blocks, whose tokens see themselves alone and whose adapter is zero.

    There are as many as the next power of two, or one and a half of one.
    """
    ids, mask, positions, types = inputs
    assert isinstance(mask, Tensor)
    blocks = len(matrix)
    power = 1 << (blocks - 1).bit_length()
    wanted = 3 * power // 4 if blocks <= 3 * power // 4 else power
    more = (wanted - blocks) * (len(ids) // blocks)
    if not more:
        return inputs, matrix
    alone = torch.eye(mask.shape[-1], dtype=mask.dtype, device=mask.device).expand(more, *mask.shape[1:])
    filled = torch.cat([ids, ids.new_full((more, ids.shape[1]), pad)]), torch.cat([mask, alone])
    positions, types = (None if each is None else _filled(each, more) for each in (positions, types))
    return (*filled, positions, types), _filled(matrix, wanted - blocks)


def _filled(rows: Tensor, more: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(more, *rows.shape[1:])])


class Recording:
    """Both passes of one shape, and the memory that they read and write."""

    def __init__(self, run: Run, inputs: Inputs, layout: Layout, matrix: Tensor, pool: Any) -> None:
        self.inputs, self.matrix = _copies(inputs), matrix.clone()
        leaves = as_leaves(self.matrix, layout)
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries prepare themselves at their first use, which is not to be recorded
            states = run(self.inputs, layout, leaves)
            torch.autograd.grad(states, leaves, torch.zeros_like(states))
            del states
        torch.cuda.current_stream().wait_stream(stream)
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._forward, pool=pool):
            states = run(self.inputs, layout, leaves)
        self.slopes = torch.zeros_like(states)
        with torch.cuda.graph(self._backward, pool=pool):
            self._gradients = as_matrix(torch.autograd.grad(states, leaves, self.slopes))
        self.states = states.detach()

    def forward(self, inputs: Inputs, matrix: Tensor) -> Tensor:
        """States, as a copy: a job may need them when its recording is already used again."""
        for to, given in zip(self.inputs, inputs, strict=True):
            if isinstance(to, Tensor) and isinstance(given, Tensor):
                to.copy_(given)
        self.matrix.copy_(matrix)
        self._forward.replay()
        return self.states.clone()

    def backward(self, slopes: Tensor) -> Tensor:
        """The matrix of gradients, given those of the states."""
        self.slopes.copy_(slopes)
        self._backward.replay()
        return self._gradients


class Recordings:
    """The recordings of one network."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen: Counter[Hashable] = Counter()
        self._kept: OrderedDict[Hashable, Recording] = OrderedDict()
        self._pool: Any = None
        self._asked = 0
        self._used: dict[Hashable, int] = {}  # when each recording that is kept was asked for last
        self._impossible = False
        self._user: weakref.ref[Any] | None = None

    @property
    def count(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def of(self, inputs: Inputs, layout: Layout, matrix: Tensor) -> Recording | None:
        """The recording of this shape; None where there is none, or where one is in use.

        Where one cannot be made, for want of memory or for what the network does, none is tried any more.
        """
        if self._impossible or (self._user is not None and self._user() is not None):
            return None
        shapes = tuple(each.shape if isinstance(each, Tensor) else None for each in inputs)
        key = (shapes, matrix.shape, layout.rank)
        self._asked += 1
        if key not in self._kept:
            self._seen[key] += 1
            if self._seen[key] < SIGHTINGS or not self._has_room():
                return None
            try:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                self._kept[key] = Recording(self._run, inputs, layout, matrix, self._pool)
            except RuntimeError as error:
                _log.warning("passes of packs are no longer recorded in this process, and take longer: %s", error)
                self._impossible, self._pool = True, None
                self._kept.clear()
                return None
        self._kept.move_to_end(key)
        self._used[key] = self._asked
        return self._kept[key]

    def _has_room(self) -> bool:
        """Whether another may be kept, if need be instead of one that is out of use.

        Were it the one used longest ago in any case, shapes that come in turns would be recorded at every pass.
        """
        if len(self._kept) < MOST:
            return True
        oldest = next(iter(self._kept))
        if self._asked - self._used[oldest] <= LATELY:
            return False
        del self._kept[oldest], self._used[oldest], self._seen[oldest]
        return True

    def clear(self) -> bool:
        """Give the memory back, if there is any that nobody uses."""
        if not self._kept or (self._user is not None and self._user() is not None):
            return False
        self._kept.clear()
        self._pool = None
        torch.cuda.empty_cache()
        return True

    def lend(self, user: object) -> None:
        """Keep the recordings' memory for `user`, as long as it lives."""
        self._user = weakref.ref(user)


def _copies(inputs: Inputs) -> Inputs:
    ids, mask, positions, types = inputs
    assert isinstance(mask, Tensor)
    return ids.clone(), mask.clone(), _copy(positions), _copy(types)


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()
