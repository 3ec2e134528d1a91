"""Every source of randomness of a run, derived from one seed. Loads no torch."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence


def derived_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, so that no two consumers share a stream."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def epoch_order(size: int, seed: int, epoch: int) -> list[int]:
    """The order of the examples in one epoch. A function of its arguments, so a resumed run needs no sampler state."""
    order = list(range(size))
    random.Random(derived_seed(seed, "order", epoch)).shuffle(order)
    return order


def balanced_batch(labels: Sequence[int], size: int, step: int, seed: int, least: int) -> list[int]:
    """Indices of the examples of `step` (from 1): as many of each label, `least` at least, about `size` in all.

    Where `size` does not hold so many of every label, the labels take turns, `least` of them at least. A function of
    its arguments, too.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    names = sorted(members)
    shown = min(len(names), max(least, size // least))
    each = max(least, size // shown)
    batch: dict[int, None] = {}
    for turn in range((step - 1) * shown, step * shown):
        lap, place = divmod(turn, len(names))
        own = members[names[epoch_order(len(names), seed, lap)[place]]]
        order: list[int] = []
        for epoch in range(lap * each // len(own), ((lap + 1) * each - 1) // len(own) + 1):
            order += epoch_order(len(own), seed + 1, epoch)
        first = lap * each % len(own)
        drawn = dict.fromkeys(order[first : first + each])
        more = iter(epoch_order(len(own), seed + 1, epoch + 1))
        while len(drawn) < min(least, len(own)):  # one was drawn at the end of an epoch and at the next one's beginning
            drawn[next(more)] = None
        batch |= dict.fromkeys(own[place] for place in drawn)
    return list(batch)
