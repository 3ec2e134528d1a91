from dataclasses import replace

import pytest

from sgg_core.reporting import MemoryNeed
from sgg_store.turns import Applicant
from worker.capacity import Capacity
from worker.company import Company, shared_key


def applicant(base_model: str = "a", crashed: bool = False, **spec: object) -> Applicant:
    return Applicant("ftjob-1", base_model, {"base_model": base_model, **spec}, crashed)


def company_of(most: int, budget: int = 1000) -> Company:
    return Company(most, Capacity(budget))


def needing(own: int) -> Applicant:
    return replace(PLAIN, need=MemoryNeed(shared=100, adapter=0, passes=own))


PLAIN = applicant()
ALONE = [
    applicant(crashed=True),
    applicant(lora={"dropout": 0.1}),
    applicant(guidance={"variant": "exact"}),
    applicant(resources={"deterministic": True}),
    applicant(resources={"gpus": 2}),
]


def test_jobs_on_one_base_model_with_adapters_on_the_same_layers_share() -> None:
    assert shared_key(PLAIN) == shared_key(applicant(seed=3, lora={"rank": 2}, optimization={"max_steps": 1}))
    assert shared_key(applicant(lora={"targets": ["k", "q"]})) == shared_key(applicant(lora={"targets": ["q", "k"]}))
    assert shared_key(PLAIN) == shared_key(applicant(method="supervised", guidance={"variant": "exact"}))
    assert len({shared_key(each) for each in (PLAIN, applicant("b"), applicant(lora={"targets": ["q"]}))}) == 3


@pytest.mark.parametrize("alone", ALONE)
def test_some_jobs_are_alone_whoever_came_first(alone: Applicant) -> None:
    company = company_of(4)
    assert company.suits(alone)
    with company.enter(alone) as member:
        assert not member.shared
        assert not company.suits(PLAIN) and not company.suits(alone)
    with company.enter(PLAIN) as member:
        assert member.shared
        assert company.suits(PLAIN) and not company.suits(alone)


def test_a_pack_takes_no_more_than_it_may_and_none_of_another_kind() -> None:
    company = company_of(2)
    with company.enter(PLAIN):
        assert not company.suits(applicant("b"))
        with company.enter(PLAIN):
            assert not company.suits(PLAIN)
        assert company.suits(PLAIN)
    assert company.suits(applicant("b"))


def test_a_worker_for_one_job_trains_it_by_itself() -> None:
    with company_of(1).enter(PLAIN) as member:
        assert not member.shared


def test_a_job_comes_in_when_memory_is_expected_to_suffice_and_alone_in_any_case() -> None:
    company = company_of(4, budget=200)
    assert company.suits(needing(1000))
    with company.enter(needing(40)):
        assert company.suits(needing(60)) and company.suits(PLAIN)
        assert not company.suits(needing(61))
        with company.enter(needing(60)):
            assert not company.suits(needing(1))
        assert company.suits(needing(60))


def test_a_job_may_take_what_the_others_leave_and_after_a_crash_as_little_as_it_can() -> None:
    company = company_of(4, budget=1000)
    with company.enter(needing(40)) as first, company.enter(needing(60)) as second:
        assert (first.room, second.room) == (940, 960)
        second.weigh(MemoryNeed(shared=100, adapter=20, passes=10, replicas=3))
        assert first.room == 910
    with company.enter(applicant(crashed=True)) as alone:
        assert alone.room == 0


def test_what_the_trainer_counts_and_measures_takes_the_place_of_what_was_expected() -> None:
    company = company_of(4, budget=200)
    with company.enter(PLAIN) as first, company.enter(needing(40)) as second:
        for member, own in ((first, 20), (second, 30)):
            member.weigh(MemoryNeed(shared=100, adapter=own, passes=0))
        assert company.suits(needing(50)) and not company.suits(needing(51))
        first.measure(180, None)  # 1.2 times what was foretold
        assert company.suits(needing(16)) and not company.suits(needing(17))
    with company.enter(needing(0)):
        assert company.suits(needing(66)) and not company.suits(needing(67))


def test_jobs_on_a_base_model_that_mixes_rows_come_one_after_another_once_the_trainer_has_told() -> None:
    company = company_of(4)
    with company.enter(PLAIN) as first:
        assert company.suits(PLAIN)
        first.keep_apart()
        assert not company.suits(PLAIN)
    with company.enter(PLAIN) as next_one:
        assert not next_one.shared and not company.suits(PLAIN)
    with company.enter(applicant("b")) as other:
        assert other.shared and company.suits(applicant("b"))
