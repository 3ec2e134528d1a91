"""Tensors that travel between the processes of a team, by torch.distributed: NCCL between GPUs, Gloo on the CPU."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from sgg_core.errors import HelperLostError

PATIENCE = 600.0  # seconds that one process waits for the part of another
LOOK_SECONDS = 0.0002
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"  # nobody beyond this machine shall reach the team
ADVICE = "The run goes on from its last checkpoint; the log of the trainer says more."


class ProcessGroup:
    """The meeting of a team's processes, at a file that none of them has made. To be closed.

    `look` is called while this process waits, and may end the waiting by an error.
    """

    def __init__(
        self, place: int, size: int, device: torch.device, meeting: Path, look: Callable[[], None] = lambda: None
    ) -> None:
        self.place, self.size, self.device = place, size, device
        self._look = look
        on_gpu = device.type == "cuda"
        os.environ.setdefault("NCCL_SOCKET_IFNAME" if on_gpu else "GLOO_SOCKET_IFNAME", LOOPBACK)
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=meeting.resolve().as_uri(),
            rank=place,
            world_size=size,
            timeout=timedelta(seconds=PATIENCE),
            device_id=device if on_gpu else None,
        )

    def spread(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The leader's values of tensors of these shapes."""
        flat = _flat(tensors)
        self._wait(dist.broadcast(flat, src=0, async_op=True))
        return _shaped(flat, tensors)

    def total(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums over all processes, the same to the last bit in each of them."""
        flat = _flat(tensors)
        self._wait(dist.all_reduce(flat, async_op=True))
        return _shaped(flat, tensors)

    def close(self, broken: bool) -> None:
        """Leave. If it is `broken`, what still waits for others is given up."""
        if broken and self.device.type == "cuda" and dist.group.WORLD is not None:
            dist.group.WORLD.abort()
        dist.destroy_process_group()

    def _wait(self, work: Any) -> None:
        """Wait for the others. Raises HelperLostError where one of them is gone or late."""
        deadline = time.monotonic() + PATIENCE
        while not work.is_completed():
            self._look()
            if time.monotonic() > deadline:
                raise HelperLostError(f"A process of the team did not answer within {PATIENCE:g} s.", ADVICE)
            time.sleep(LOOK_SECONDS)
        try:
            work.wait()
        except RuntimeError as error:
            raise HelperLostError(f"The team of processes is broken: {error}.", ADVICE) from error


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _shaped(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(flat, [tensor.numel() for tensor in like])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
