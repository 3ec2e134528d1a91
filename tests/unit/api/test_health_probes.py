"""A part that hangs hangs nobody else, and is asked once, however often the question comes."""

import asyncio
import threading
import time

from api.health.probes import Probes


def test_all_parts_are_asked_at_once_and_their_problems_told() -> None:
    barrier = threading.Barrier(2, timeout=5)

    def meets() -> None:
        barrier.wait()

    def broken() -> str:
        raise ConnectionError("secret details")

    probes = Probes({"a": meets, "b": meets, "c": lambda: "It rests.", "d": broken}, 5)
    assert asyncio.run(probes.outcomes()) == {
        "a": "ok", "b": "ok", "c": "It rests.", "d": "It does not answer; see the server's log.",
    }  # fmt: skip


def test_a_part_that_hangs_is_told_in_time_and_asked_only_once() -> None:
    calls = []
    released = threading.Event()

    def hangs() -> None:
        calls.append(threading.current_thread().name)
        released.wait(10)

    async def ask_often() -> float:
        began = time.monotonic()
        for _ in range(3):
            outcomes = await asyncio.gather(*(probes.outcomes() for _ in range(10)))
            assert all(told["hung"].startswith("It does not answer within 0.1 s") for told in outcomes)
            assert all(told["well"] == "ok" for told in outcomes)
        return time.monotonic() - began

    probes = Probes({"hung": hangs, "well": lambda: None}, 0.1)
    assert asyncio.run(ask_often()) < 3
    assert calls == ["probe-hung"]
    released.set()
    while asyncio.run(probes.outcomes())["hung"] != "ok":
        time.sleep(0.01)
