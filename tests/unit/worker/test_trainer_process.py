import errno
import io
import json
import os
import subprocess
import sys

import pytest

from sgg_core.errors import DataError, DiskFullError, Problem
from sgg_core.pipe import MessagePipe
from sgg_core.reporting import Notice
from worker.messages import Alive, Said, Steer
from worker.run_reporter import RunReporter, Wishes, begin_peak, gpu_memory, peak_memory
from worker.trainer_process import describe_failure


class LoudPipe(MessagePipe):
    """A message pipe into memory."""

    def __init__(self) -> None:
        self.messages: list[object] = []

    def send(self, message: object) -> None:
        self.messages.append(message)


def test_a_wish_reaches_the_run_it_is_for_and_no_other() -> None:
    wishes = Wishes()
    first, second = (RunReporter(LoudPipe(), wishes, run) for run in (1, 2))
    wishes.steer(Steer(run=1, action="cancel"))
    assert (first.control(), second.control()) == ("cancel", "continue")
    wishes.steer(Steer(run=2, action="drain"))
    assert (first.control(), second.control()) == ("cancel", "drain")
    wishes.forget(1)
    assert (first.control(), second.control()) == ("continue", "drain")


def test_a_wish_that_is_early_is_not_lost() -> None:
    wishes = Wishes()
    wishes.steer(Steer(run=3, action="cancel"))
    assert RunReporter(LoudPipe(), wishes, 3).control() == "cancel"


def test_asking_for_wishes_tells_that_training_moves_but_not_at_every_step() -> None:
    pipe = LoudPipe()
    reporter = RunReporter(pipe, Wishes(), 4)
    for _ in range(100):
        reporter.control()
    reporter.report(Notice(message="hello"))
    alive, notice = pipe.messages
    assert isinstance(alive, Said) and isinstance(alive.message, Alive) and alive.message.peak_bytes > 2**20
    assert notice == Said(run=4, message=Notice(message="hello"))


PEAKS = """
from worker.run_reporter import begin_peak, peak_memory
begin_peak()
print(peak_memory(None))
block = bytearray(b"x" * 2**26)
del block
print(peak_memory(None))
begin_peak()
print(peak_memory(None))
"""


def test_the_peak_of_memory_is_that_since_it_was_begun() -> None:
    # in a process of its own, from which nothing else is taken meanwhile
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    before, with_block, after = map(int, done.stdout.split())
    assert with_block > before + 2**25
    assert after < before + 2**25


def test_failures_are_named() -> None:
    data = describe_failure(DataError("a.jsonl", (Problem(7, "text", "It is empty.", "Write one."),)), 1)
    assert (data.code, data.users_fault, data.run) == ("invalid_training_file", True, 1)
    assert "line 7" in data.message and "Write one." in data.message
    assert describe_failure(MemoryError(), 1).code == "out_of_memory"
    unknown = describe_failure(RuntimeError("oh"), None)
    assert (unknown.code, unknown.users_fault, unknown.run) == ("internal_error", False, None)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_a_quota_and_a_file_size_limit_are_one_failure_and_no_fault_of_the_user(number: int) -> None:
    full = describe_failure(OSError(number, os.strerror(number)), 1)
    assert (full.code, full.users_fault) == (DiskFullError.code, False)


def test_the_gpus_own_memory_error_counts_as_one() -> None:
    class OutOfMemoryError(RuntimeError):
        pass

    assert describe_failure(OutOfMemoryError("CUDA out of memory"), 1).code == "out_of_memory"


def test_prints_of_libraries_stay_out_of_the_messages() -> None:
    script = (
        "import os\n"
        "from worker.messages import Ready\n"
        "from sgg_core.pipe import MessagePipe\n"
        "pipe = MessagePipe()\n"
        "print('a library says hello', flush=True)\n"
        "os.system('echo so does a program')\n"
        "pipe.send(Ready(base_models=('x' * 200_000,)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = io.StringIO(done.stdout).read().splitlines()
    assert len(lines) == 1 and len(json.loads(lines[0])["base_models"][0]) == 200_000
    assert "a library says hello" in done.stderr and "so does a program" in done.stderr


def test_the_process_ends_when_its_parent_is_another_than_the_one_that_started_it() -> None:
    command = [sys.executable, "-m", "worker.trainer_process", str(os.getpid() + 1)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as process:
        try:
            assert process.wait(60) == 0  # its stdin is still open
        finally:
            process.kill()
        assert process.stdout is not None and process.stdout.read() == b""


def test_without_torch_there_is_no_gpu_to_tell_of() -> None:
    script = (
        "import sys; from worker.run_reporter import gpu_memory; assert gpu_memory() is None, 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", f"{script}; assert 'torch' not in sys.modules"], check=True)


@pytest.mark.gpu
def test_the_memory_of_the_gpu_is_told_once_it_is_used() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    kept = torch.ones(2**20, device="cuda")
    memory = gpu_memory()
    assert memory is not None and kept.numel() * 4 <= memory.allocated <= memory.reserved <= memory.used <= memory.total
    begin_peak()
    torch.ones(2**22, device="cuda")
    assert peak_memory(gpu_memory()) >= memory.allocated + 2**24
