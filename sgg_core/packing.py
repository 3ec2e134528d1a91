"""Several examples in one row without padding, and what they share only once.

Few-shot examples of one task begin with the same words: the chat template's system turn, the task's description, the
list of labels. `pack` lays a group of examples out as a tree of tokens, [common prefix, rest 1, rest 2, ...], with an
attention mask that lets a token see its ancestors only. Each example gets exactly the hidden states (up to rounding)
that it would get alone, forward and backward, at the cost of its own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sgg_core.encoding import common_prefix
from sgg_core.label_trie import LabelTrie


@dataclass(frozen=True)
class Packed:
    """`ids`, `positions`: (1, T). `mask`: (1, 1, T, T) bool, True where a row may look. `starts`: first own token."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    prefix: int
    starts: tuple[int, ...]
    lengths: tuple[int, ...]

    def place(self, row: int, position: int) -> int:
        """Index in 0..T-1 of token `position` of example `row`."""
        return position if position < self.prefix else self.starts[row] + position - self.prefix

    def node(self, row: int, index: int) -> int:
        """Index in 0..T-1 of trie node `index` of example `row`."""
        return self.starts[row] + self.lengths[row] - self.prefix + index


def pack(rows: Sequence[Sequence[int]], device: torch.device, trie: LabelTrie | None = None) -> Packed:
    """Lay out `rows` (and, after each of them, the nodes of `trie`) as one tree of tokens."""
    prefix = common_prefix(rows)
    nodes = 0 if trie is None else len(trie.tokens)
    ids = list(rows[0][:prefix])
    positions = list(range(prefix))
    starts = []
    for row in rows:
        starts.append(len(ids))
        ids += row[prefix:]
        positions += range(prefix, len(row))
        if trie is not None:
            ids += trie.tokens
            positions += [len(row) - 1 + depth for depth in trie.depths]
    size = len(ids)
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[:, :prefix] = True
    for start, row in zip(starts, rows, strict=True):
        end = start + len(row) - prefix + nodes
        mask[start:end, start:end] = True
        if trie is not None and nodes:
            mask[end - nodes : end, end - nodes : end] = trie.ancestors()
    mask &= torch.ones(size, size, dtype=torch.bool).tril()
    return Packed(
        ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        mask=mask[None, None].to(device),
        prefix=prefix,
        starts=tuple(starts),
        lengths=tuple(len(row) for row in rows),
    )
