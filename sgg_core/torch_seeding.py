"""Torch under a fixed seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Run a block under a fixed torch seed and give the global generators back as they were."""
    with torch.random.fork_rng():
        if torch.cuda.device_count():
            torch.manual_seed(seed)
        else:  # that would write down the stack for each kind of device that is not there, which takes 100 times longer
            torch.default_generator.manual_seed(seed)
        yield
