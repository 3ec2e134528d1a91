"""Torch under a fixed seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Run a block under a fixed torch seed and give the global generators back as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
