from pathlib import Path

from sgg_store.attempts import Lease
from worker.scratch import Scratch

LEASE = Lease("ftjob-1", "proj-1", 1, "token", "me")


def test_an_attempts_directory_is_empty_at_first_and_gone_at_the_end(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    with scratch.attempt(LEASE) as directory:
        assert list(directory.iterdir()) == []
        (directory / "file").write_bytes(b"1")
    assert not directory.exists()
    scratch.close()


def test_what_a_dead_worker_left_is_removed_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    dead = Scratch(tmp_path)
    living = Scratch(tmp_path)
    with dead.attempt(LEASE) as lost, living.attempt(LEASE) as kept:
        dead._lock.close()  # the kernel does this when a process dies
        Scratch(tmp_path).close()
        assert not lost.exists()
        assert kept.exists()
    living.close()


def test_closing_removes_everything(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.close()
    assert list(tmp_path.glob("worker-*")) == []
