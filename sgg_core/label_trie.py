"""Labels as strings of tokens in one trie, so that one pass over a prompt scores all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class LabelTrie:
    """Labels as token strings in one trie, for scoring all of them in one pass over one prompt.

    Every label ends with `end`, so none is a prefix of another. p(label | prompt) is the product, over the nodes on
    its path, of a softmax restricted to that node's children; nodes with one child contribute factor 1, so only
    branching nodes and the tokens that lead to them are ever computed.

    `tokens`, `parents`, `depths`: the non-root nodes to compute, in an order where parents come first; a parent of -1
    is the root (the prompt's last token). `branches`: for each branching node its row (0 = root, i + 1 = node i) and
    its children's tokens. `paths[label]`: (branch, child) choices.
    """

    def __init__(self, labels: Sequence[Sequence[int]], end: int) -> None:
        strings = [(*label, end) for label in labels]
        if len(set(strings)) != len(strings):
            raise ValueError("two labels have the same tokens")
        if any(end in label for label in labels):
            raise ValueError("a label contains the end token")
        prefixes = self._branching_prefixes(strings)
        needed = sorted({prefix[:size] for prefix in prefixes for size in range(1, len(prefix) + 1)}, key=len)
        row = {(): 0} | {prefix: index + 1 for index, prefix in enumerate(needed)}
        self.tokens = [prefix[-1] for prefix in needed]
        self.parents = [row[prefix[:-1]] - 1 for prefix in needed]
        self.depths = [len(prefix) for prefix in needed]
        ordered = sorted(prefixes, key=lambda prefix: row[prefix])
        number = {prefix: index for index, prefix in enumerate(ordered)}
        self.branches = [(row[prefix], prefixes[prefix]) for prefix in ordered]
        self.paths = [
            [
                (number[string[:size]], prefixes[string[:size]].index(string[size]))
                for size in range(len(string))
                if string[:size] in prefixes
            ]
            for string in strings
        ]

    @staticmethod
    def _branching_prefixes(strings: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], list[int]]:
        children: dict[tuple[int, ...], set[int]] = {}
        for string in strings:
            for size in range(len(string)):
                children.setdefault(string[:size], set()).add(string[size])
        return {prefix: sorted(found) for prefix, found in children.items() if len(found) > 1}

    def ancestors(self) -> Tensor:
        """(N, N) bool: node i sees node j (itself, or an ancestor)."""
        size = len(self.tokens)
        seen = torch.zeros(size, size, dtype=torch.bool)
        for index, parent in enumerate(self.parents):
            if parent >= 0:
                seen[index] = seen[parent]
            seen[index, index] = True
        return seen
