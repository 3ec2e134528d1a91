"""How the trainings of a child speak with its parent: each has a Reporter of its own, and the wishes come by run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sgg_core.pipe import MessagePipe
from sgg_core.reporting import AnyMessage, Control
from worker.messages import Alive, GpuMemory, Said, Steer, Wish

ALIVE_SECONDS = 1.0


class AbandonedError(Exception):
    """Nobody waits for the training any more, and its directories are gone: it is to end without a trace."""


class Wishes:
    """What the parent wishes, for each training."""

    def __init__(self) -> None:
        self._by_run: dict[int, Wish] = {}

    def steer(self, command: Steer) -> None:
        """Remember a wish; called from the thread that reads stdin."""
        self._by_run[command.run] = command.action

    def of(self, run: int) -> Wish:
        """The newest wish for a training."""
        return self._by_run.get(run, "continue")

    def forget(self, run: int) -> None:
        """A training has ended; a wish for it that comes later is for nobody."""
        self._by_run.pop(run, None)


def nothing() -> None:
    """Nothing is to be done between passes."""


class RunReporter:
    """The Reporter of training `run`: its messages go up the pipe, and what the parent wishes comes down.

    `meanwhile` is called whenever it breathes. Base models beside the one that is trained on take `beside_bytes`.
    """

    def __init__(
        self,
        pipe: MessagePipe,
        wishes: Wishes,
        run: int,
        meanwhile: Callable[[], None] = nothing,
        beside_bytes: int = 0,
    ) -> None:
        self._pipe = pipe
        self._wishes = wishes
        self._run = run
        self._meanwhile = meanwhile
        self._beside_bytes = beside_bytes
        self._last_alive = 0.0

    def report(self, message: AnyMessage) -> None:
        """Send one message to the parent, which takes a checkpoint's directory over."""
        self._pipe.send(Said(run=self._run, message=message))

    def control(self) -> Control:
        """Answer what the parent wishes for this run. Breathes."""
        self.breathe()
        wish = self._wishes.of(self._run)
        return "continue" if wish == "abandon" else wish  # which came since then

    def breathe(self) -> None:
        """Tell the parent at most once a second that training moves. Raises AbandonedError if that is its wish."""
        if self._wishes.of(self._run) == "abandon":
            raise AbandonedError
        self._meanwhile()
        now = time.monotonic()
        if now - self._last_alive > ALIVE_SECONDS:
            self._last_alive = now
            gpu = gpu_memory()
            alive = Alive(gpu_memory=gpu, peak_bytes=peak_memory(gpu), beside_bytes=self._beside_bytes)
            self._pipe.send(Said(run=self._run, message=alive))


def gpu_memory() -> GpuMemory | None:
    """Ask for the memory of the GPU that training is on. Loads neither torch nor CUDA: without them there is none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    free, total = torch.cuda.mem_get_info()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    return GpuMemory(allocated=allocated, reserved=reserved, used=total - free, total=total)


def begin_peak() -> None:
    """Let `peak_memory` be that from now on. Where the kernel does not allow it, it is that of the process's life."""
    if gpu_memory() is not None:
        sys.modules["torch"].cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5): sets the peak to what is resident now


def peak_memory(gpu: GpuMemory | None) -> int:
    """Bytes that this process held at most since `begin_peak`; on a GPU with what there is beside its tensors."""
    if gpu is not None:
        return int(sys.modules["torch"].cuda.max_memory_allocated()) + gpu.used - gpu.reserved
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
