"""The leader's side of a team: starts helpers, sends them on errands, and ends them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor
from torch import distributed as dist

from sgg_core.backbone import LoadedBase
from sgg_core.errors import HelperLostError, OutOfMemoryError, SpecError
from sgg_core.guidance.passes import Kind, Share
from sgg_core.memory import REMEDY
from sgg_core.reporting import Notice, Reporter
from sgg_core.spec import LoraSpec, TrainingSpec
from sgg_core.tasks.contrast import Contrast
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.task import Task
from sgg_core.team.group import ADVICE, PATIENCE, ProcessGroup
from sgg_core.team.messages import Errand, Failed, Learn, Loaded, Start, word_adapter
from sgg_core.team.parts import part_of

COMMAND = (sys.executable, "-P", "-X", "faulthandler", "-m", "sgg_core.team.helper_process")
LAST_WORDS_SECONDS = 5.0


@contextmanager
def with_team(base: LoadedBase, spec: TrainingSpec, reporter: Reporter) -> Iterator[LoadedBase]:
    """The base model with as many processes as `spec` wants; one that has its team already keeps it.

    Raises SpecError naming resources.gpus where there are fewer GPUs.
    """
    size = spec.resources.gpus
    if size == 1 or base.team is not None:
        yield base
        return
    with Leader(base, spec.lora, size) as leader:
        computing = "GPUs" if base.device.type == "cuda" else "processes on the CPU"
        reporter.report(Notice(message=f"{size} {computing} share every batch."))
        yield replace(base, team=leader)


class Helper:
    """A process in its place of the team."""

    def __init__(self, start: Start) -> None:
        self.place = start.place
        # Ctrl-C is for whoever handles it: a group of its own is not reached, and an ignored signal stays ignored
        group = None if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else 0
        self._process = subprocess.Popen(
            [*COMMAND, str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=group
        )
        self._failed: Failed | None = None
        self.tell(start)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def tell(self, message: BaseModel) -> None:
        """Send one message. Raises HelperLostError if it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(message.model_dump_json().encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise HelperLostError(f"Process {self.place + 1} of the team has ended.", ADVICE) from error

    def hear(self, seconds: float) -> Loaded | Failed | None:
        """Its next message; None where it ends, or says nothing for so long."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return None
        try:
            word = word_adapter.validate_json(self._process.stdout.readline())
        except ValidationError:  # the empty line of its end, or one that its death cut off
            return None
        if isinstance(word, Failed):
            self._failed = word
        return word

    @property
    def failure(self) -> Failed | None:
        """What it said at its end, if it was for a reason of its own."""
        if self._failed is None and not self.alive:
            self.hear(0.0)
        return self._failed

    @property
    def end(self) -> str:
        """How it ended, if it has."""
        code = self._process.poll()
        return "" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


class Leader:
    """A `sgg_core.guidance.passes.Team` of `size` processes, this one included. Its helpers end with its context."""

    def __init__(self, base: LoadedBase, lora: LoraSpec, size: int) -> None:
        self._base, self._lora, self._size = base, lora, size
        self._devices = _devices(base, size)
        self.helpers: list[Helper] = []
        self._tasks: list[Task] = []
        self._broken = False
        self._stack = ExitStack()
        self._group: ProcessGroup

    def __enter__(self) -> Leader:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sgg-team-")))
            threads = torch.get_num_threads()
            if self._base.device.type == "cpu":
                stack.callback(torch.set_num_threads, threads)
                threads = max(1, threads // self._size)
                torch.set_num_threads(threads)
            for place in range(1, self._size):
                self.helpers.append(Helper(self._start(place, threads, scratch / "meeting")))
                stack.callback(self.helpers[-1].close)
            for helper in self.helpers:
                self._check_loaded(helper)
            self._group = ProcessGroup(0, self._size, self._devices[0], scratch / "meeting", self._look)
            stack.callback(lambda: self._group.close(self._broken))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._broken = error is not None
        self._stack.close()

    def summed(self, share: Share, kind: Kind, vector: Sequence[Tensor]) -> list[Tensor]:
        """See `Team`. Raises HelperLostError, or OutOfMemoryError where a helper's memory did not suffice.

        Of contrast only gradients are shared: other passes over a whole batch are made here.
        """
        if isinstance(share.task, Contrast) and kind != "gradient":
            return share.compute(kind, vector)
        try:
            errand = Errand(
                kind=kind, task=self._number(share), items=tuple(share.items), units=share.units, seed=share.seed
            )
            for helper in self.helpers:
                helper.tell(errand)
            self._group.spread([*share.parameters, *vector])
            return self._group.total(part_of(share, self._group).compute(kind, vector))
        except HelperLostError as error:
            raise self._explained(error) from error

    def _start(self, place: int, threads: int, meeting: Path) -> Start:
        assert self._base.directory is not None
        return Start(
            entry=self._base.entry,
            directory=self._base.directory.resolve(),
            lora=self._lora,
            device=str(self._devices[place]),
            threads=threads,
            place=place,
            size=self._size,
            meeting=meeting,
        )

    def _check_loaded(self, helper: Helper) -> None:
        word = helper.hear(PATIENCE)
        if not isinstance(word, Loaded):
            raise self._explained(HelperLostError("A process of the team did not start.", ADVICE))
        if word.base_model != self._base.sha256:
            raise HelperLostError("A process of the team found another base model on the disk.", "Start again.")

    def _number(self, share: Share) -> int:
        """The number under which helpers know a task; they learn of it now, if they have not."""
        for number, known in enumerate(self._tasks):
            if known is share.task:
                return number
        task = share.task
        lesson = Learn(
            kind="classification" if task.labels else "text",
            labels=task.labels,
            description=task.description if isinstance(task, LabelWords) else None,
            kinship=tuple(map(tuple, task.kinship.tolist())) if isinstance(task, Contrast) else None,
            weights=sum(parameter.numel() for parameter in share.parameters),
        )
        for helper in self.helpers:
            helper.tell(lesson)
        self._tasks.append(task)
        return len(self._tasks) - 1

    def _look(self) -> None:
        for helper in self.helpers:
            if not helper.alive:
                raise HelperLostError(f"Process {helper.place + 1} of the team has ended.", ADVICE)

    def _explained(self, error: HelperLostError) -> HelperLostError | OutOfMemoryError:
        """The error with its reason: what a helper said at its end, or how one was ended."""
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        while all(helper.alive for helper in self.helpers) and time.monotonic() < deadline:
            time.sleep(0.01)
        for failure in filter(None, (helper.failure for helper in self.helpers)):
            said = failure.message.rstrip(".")
            if failure.out_of_memory:
                return OutOfMemoryError(f"There was not enough memory for a training step: {said}.", REMEDY)
            return HelperLostError(f"A process of the team failed: {said}.", ADVICE)
        ends = sorted((helper.end for helper in self.helpers if not helper.alive), reverse=True)  # signals first
        return HelperLostError(f"A process of the team ended with {ends[0]}.", ADVICE) if ends else error


def _devices(base: LoadedBase, size: int) -> list[torch.device]:
    """A device for each place. Raises SpecError where there are too few, or nothing that helpers could load."""
    if base.directory is None:
        raise SpecError("resources.gpus above 1 needs a base model on disk.", "Load one from the catalogue.")
    if dist.is_initialized():
        raise SpecError(
            "resources.gpus above 1 needs a process that is in no group of torch.distributed.", "Set it to 1."
        )
    if base.device.type != "cuda":
        return [base.device] * size
    found = torch.cuda.device_count()
    if found < size:
        raise SpecError(
            f"resources.gpus is {size}, and the trainer sees {found} GPU(s).",
            "Lower it, or let the worker see more GPUs (CUDA_VISIBLE_DEVICES).",
        )
    own = torch.cuda.current_device() if base.device.index is None else base.device.index
    others = [number for number in range(found) if number != own]
    return [torch.device("cuda", number) for number in (own, *others[: size - 1])]
