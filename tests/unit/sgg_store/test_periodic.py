import math
import threading

import pytest

from sgg_store.errors import DatabaseUnavailableError
from sgg_store.periodic import Periodic


@pytest.mark.parametrize("error", [DatabaseUnavailableError("The database does not answer."), PermissionError(13)])
def test_it_goes_on_after_the_store_was_away_and_after_a_defect(error: Exception) -> None:
    calls: list[int] = []
    thrice = threading.Event()

    def action() -> None:
        calls.append(1)
        if len(calls) == 3:
            thrice.set()
        raise error

    periodic = Periodic("test", 0.001, action)
    periodic.start()
    assert thrice.wait(5) and periodic.alive
    periodic.stop()
    assert not periodic.alive


@pytest.mark.parametrize("seconds", [3600, 1e12, math.inf])
def test_it_does_not_wait_when_it_is_told_to_hurry(seconds: float) -> None:
    calls: list[int] = []
    called = threading.Semaphore(0)

    def action() -> None:
        calls.append(1)
        called.release()

    periodic = Periodic("test", seconds, action)
    periodic.start()
    assert called.acquire(timeout=30)
    periodic.hurry()
    assert called.acquire(timeout=30)
    periodic.stop()
    assert len(calls) == 2
