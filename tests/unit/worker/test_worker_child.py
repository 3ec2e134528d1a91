import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from sgg_core.reporting import Notice
from worker.child import TrainerChild, child_environment, spawn
from worker.errors import TrainerDiedError
from worker.messages import Alive, Ready, Said, Steer
from worker.testing import eventually

READY = '{"type": "ready"}'


@contextmanager
def running(script: str) -> Iterator[TrainerChild]:
    child = TrainerChild(spawn([sys.executable, "-c", script]))
    try:
        yield child
    finally:
        child.close()


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pid: int) -> None:
    assert eventually(lambda: gone(pid))


def test_secrets_do_not_reach_the_child() -> None:
    secrets = {
        "SGG_DATABASE_URL": "postgresql://user:password@host/db",
        "SGG_BROKER_URL": "redis://:password@host",
        "SGG_OBJECT_STORE_URL": "s3://key:secret@bucket",
        "SGG_API_KEY": "sgg_x_y",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HF_TOKEN": "hf_secret",
    }
    passed = child_environment(secrets | {"PATH": "/bin", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0"})
    assert not set(secrets) & set(passed)
    assert passed["OMP_NUM_THREADS"] == "1" and passed["CUDA_VISIBLE_DEVICES"] == "0" and passed["PATH"] == "/bin"


def test_threads_wait_without_spinning_unless_the_administrator_wants_it() -> None:
    assert child_environment({})["OMP_WAIT_POLICY"] == "PASSIVE"
    assert child_environment({"OMP_WAIT_POLICY": "ACTIVE"})["OMP_WAIT_POLICY"] == "ACTIVE"


def test_the_child_is_kept_off_the_network() -> None:
    assert child_environment({"HF_HUB_OFFLINE": "0"})["HF_HUB_OFFLINE"] == "1"


def test_commands_and_messages_pass_as_lines() -> None:
    script = f"import sys; line = sys.stdin.readline(); assert 'cancel' in line; print('{READY}', flush=True); input()"
    with running(script) as child:
        child.send(Steer(run=1, action="cancel"))
        assert child.receive(60) == Ready()
        assert child.receive(0.01) is None


def test_messages_before_the_death_arrive_before_it_is_told() -> None:
    script = f"import sys; print('{READY}'); print('boom error', file=sys.stderr); sys.exit(3)"
    with running(script) as child:
        assert child.receive(60) == Ready()
        for _ in range(2):
            with pytest.raises(TrainerDiedError) as death:
                child.receive(60)
        assert (death.value.exit_code, death.value.out_of_memory) == (3, False)
        assert death.value.last_words == "boom error"


@pytest.mark.parametrize(
    "script",
    [
        "bytearray(1 << 62)",
        "import os, sys; print('terminate called after throwing an instance of \\'std::bad_alloc\\'', file=sys.stderr);"
        "sys.stderr.flush(); os.abort()",
    ],
)
def test_want_of_memory_is_known_by_the_last_words(script: str) -> None:
    with running(script) as child:
        with pytest.raises(TrainerDiedError) as death:
            child.receive(60)
        assert death.value.out_of_memory and death.value.exit_code != 0


def test_a_signal_is_told_and_is_not_taken_for_want_of_memory() -> None:
    with running("input()") as child:
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(TrainerDiedError) as death:
            child.receive(60)
        assert (death.value.exit_code, death.value.out_of_memory) == (-9, False)


def test_another_process_killed_for_memory_before_the_training_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = tmp_path / "memory.events"
    monkeypatch.setattr("worker.child.KERNEL_COUNTS", (counts,))

    def killed(before: int, during: int) -> bool:
        counts.write_text("low 0\noom_kill 1\n")
        with running("input()") as child:
            counts.write_text(f"low 0\noom_kill {before}\n")
            child.open_box(1)
            counts.write_text(f"low 0\noom_kill {during}\n")
            os.kill(child.pid, signal.SIGKILL)
            with pytest.raises(TrainerDiedError) as death:
                child.receive_of(1, 60)
            return death.value.out_of_memory

    assert killed(before=1, during=2)
    assert not killed(before=2, during=2)


def test_sending_to_a_dead_child_is_no_error() -> None:
    with running("pass") as child:
        with pytest.raises(TrainerDiedError):
            child.receive(60)
        for _ in range(3):
            child.send(Alive(peak_bytes=1))


def test_kill_reaches_a_stopped_child_and_its_children() -> None:
    script = (
        "import subprocess, sys;"
        "grandchild = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE);"
        'print(\'{"type": "ready", "base_models": ["%d"]}\' % grandchild.pid, flush=True); input()'
    )
    with running(script) as child:
        message = child.receive(60)
        assert isinstance(message, Ready)
        os.kill(child.pid, signal.SIGSTOP)
        child.kill()
        assert not child.alive
        wait_until_gone(int(message.base_models[0]))


def test_what_a_training_says_lies_in_its_own_box_until_that_is_closed() -> None:
    def said(run: int, text: str) -> str:
        return Said(run=run, message=Notice(message=text)).model_dump_json()

    lines = [said(1, "one"), said(2, "two"), said(3, "for nobody"), said(1, "one more"), READY]
    script = f"import sys; sys.stdin.readline()\nfor line in {lines!r}: print(line, flush=True)\ninput(); sys.exit(4)"
    with running(script) as child:
        child.open_box(1)
        child.open_box(2)
        child.send(Alive(peak_bytes=1))
        assert child.receive(60) == Ready()
        texts = [child.receive_of(run, 0) for run in (2, 1, 1)]
        assert [text.message for text in texts if isinstance(text, Said)] == [
            Notice(message=text) for text in ("two", "one", "one more")
        ]
        assert child.receive_of(1, 0) is None
        child.close_box(2)
        child.send(Alive(peak_bytes=1))
        child.open_box(4)
        for run in (1, 4):
            with pytest.raises(TrainerDiedError, match="exit code 4"):
                child.receive_of(run, 60)
        child.open_box(5)
        with pytest.raises(TrainerDiedError):
            child.receive_of(5, 0)


def test_a_child_that_speaks_nonsense_is_ended() -> None:
    with running("print('what?', flush=True); input()") as child, pytest.raises(TrainerDiedError):
        child.receive(60)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a stopped child with its parent")
def test_the_trainer_dies_with_its_worker_even_while_it_is_stopped() -> None:
    script = (
        "import os, signal, sys, time\n"
        "from worker.child import TrainerChild, spawn\n"
        "child = TrainerChild(spawn([sys.executable, '-c', '''\n"
        "import sys\n"
        "from sgg_core.pipe import die_with_parent\n"
        "die_with_parent(int(sys.argv[1]))\n"
        'print(\\\'{"type": "ready"}\\\', flush=True)\n'
        "input()\n"
        "''']))\n"
        "assert child.receive(60)\n"
        "os.kill(child.pid, signal.SIGSTOP)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child_pid = int(parent.stdout.readline())
        assert not gone(child_pid)
        parent.kill()
        wait_until_gone(child_pid)
