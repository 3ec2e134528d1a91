"""Whether one more job fits: the base model counts once, forecasts are corrected by what packs took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgg_core.reporting import MemoryNeed
from worker.capacity import SHARE, Capacity, foretold, machine_memory


def need(own: int, shared: int = 100) -> MemoryNeed:
    return MemoryNeed(shared=shared, adapter=own // 2, passes=own - own // 2)


def test_what_is_shared_counts_once_and_every_member_by_what_it_adds() -> None:
    assert foretold([]) == foretold([None]) == 0
    assert foretold([need(10)]) == need(10).alone == 110
    assert foretold([need(10), None, need(20)]) == 130
    capacity = Capacity(150)
    assert capacity.fits("base", [need(10), need(20)], need(20))
    assert not capacity.fits("base", [need(10), need(20)], need(21))


def test_a_job_of_which_nothing_is_known_comes_in_and_one_that_is_too_large_does_not_come_beside_it() -> None:
    capacity = Capacity(150)
    assert capacity.fits("base", [need(10), need(500)], None)
    assert capacity.fits("base", [None], need(50))
    assert not capacity.fits("base", [None], need(51))


@given(st.lists(st.integers(0, 10**12), max_size=8), st.integers(0, 10**12), st.integers(1, 10**13))
def test_a_job_that_fits_also_fits_into_more_memory_and_beside_fewer(inside: list[int], own: int, budget: int) -> None:
    known = [need(each) for each in inside]
    if Capacity(budget).fits("base", known, need(own)):
        assert Capacity(budget + 1).fits("base", known, need(own))
        assert Capacity(budget).fits("base", known[1:], need(own))


def test_what_a_pack_took_corrects_the_forecasts_of_the_next_one_on_its_base_model() -> None:
    capacity = Capacity(300)
    capacity.expect([need(50), need(50)])
    capacity.measure(150, None)
    capacity.measure(300, None)  # half as much again as was foretold
    capacity.measure(200, None)
    capacity.end("base")
    assert capacity.fits("base", [need(50)], need(50))
    assert not capacity.fits("base", [need(50)], need(51))
    assert capacity.fits("another", [need(50)], need(150))


def test_a_pack_that_takes_more_than_foretold_lets_fewer_in_at_once_and_one_that_takes_less_only_at_its_end() -> None:
    capacity = Capacity(300)
    capacity.expect([need(50)])
    capacity.measure(75, None)  # perhaps before its first step
    assert not capacity.fits("base", [need(50)], need(151))
    capacity.measure(225, None)
    assert capacity.fits("base", [need(50)], need(50)) and not capacity.fits("base", [need(50)], need(51))
    capacity.end("base")
    capacity.expect([need(50)])
    capacity.measure(75, None)
    capacity.end("base")
    assert capacity.fits("base", [need(50)], need(450))


def test_base_models_beside_a_pack_take_its_room_and_are_no_error_of_its_forecast() -> None:
    capacity = Capacity(500)
    capacity.expect([need(50)])
    capacity.measure(350, None, beside=200)  # just what was foretold
    assert capacity.fits("base", [need(50)], need(150)) and not capacity.fits("base", [need(50)], need(151))
    capacity.end("base")
    assert capacity.fits("base", [need(50)], need(350)) and not capacity.fits("base", [need(50)], need(351))


def test_one_strange_measurement_does_not_close_the_door_for_ever() -> None:
    capacity = Capacity(440)
    capacity.expect([need(0)])
    capacity.measure(10**9, None)
    capacity.end("base")
    assert capacity.fits("base", [need(5)], need(5))


def test_a_pack_of_which_nothing_was_foretold_or_measured_teaches_nothing() -> None:
    capacity = Capacity(150)
    capacity.measure(10**6, None)
    capacity.end("base")
    capacity.expect([need(10)])
    capacity.end("base")
    assert capacity.fits("base", [need(10)], need(40)) and not capacity.fits("base", [need(10)], need(41))


def test_without_a_setting_the_budget_is_a_share_of_the_machine_or_of_the_gpu() -> None:
    machine, total = Capacity(None), 1000
    assert machine.fits("base", [], need(int(SHARE * machine_memory()) - 100))
    assert not machine.fits("base", [], need(int(SHARE * machine_memory())))
    machine.measure(0, total)
    assert machine.fits("base", [], need(int(SHARE * total) - 100))
    assert not machine.fits("base", [], need(int(SHARE * total)))
    told = Capacity(5000)
    told.measure(0, total)
    assert told.fits("base", [], need(4900))


def test_a_container_with_less_memory_than_its_machine_counts(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [tmp_path / name for name in ("none", "unlimited", "limited")]
    limits[1].write_text("max\n")
    whole = machine_memory()
    monkeypatch.setattr("worker.capacity.CGROUP_LIMITS", limits[:2])
    assert machine_memory() >= whole
    limits[2].write_text("4096\n")
    monkeypatch.setattr("worker.capacity.CGROUP_LIMITS", limits)
    assert machine_memory() == 4096
