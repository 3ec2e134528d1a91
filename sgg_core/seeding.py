"""Every source of randomness of a run, derived from one seed. Loads torch only where torch is seeded."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager


def derived_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, so that no two consumers share a stream."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Run a block under a fixed torch seed and give the global generators back as they were."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def epoch_order(size: int, seed: int, epoch: int) -> list[int]:
    """The order of the examples in one epoch. A function of its arguments, so a resumed run needs no sampler state."""
    order = list(range(size))
    random.Random(derived_seed(seed, "order", epoch)).shuffle(order)
    return order
