import pytest

from sgg_store.turns import Applicant
from worker.company import Company, shared_key


def applicant(base_model: str = "a", crashed: bool = False, **spec: object) -> Applicant:
    return Applicant("ftjob-1", base_model, {"base_model": base_model, **spec}, crashed)


PLAIN = applicant()
ALONE = [
    applicant(crashed=True),
    applicant(lora={"dropout": 0.1}),
    applicant(guidance={"variant": "exact"}),
]


def test_jobs_on_one_base_model_with_adapters_on_the_same_layers_share() -> None:
    assert shared_key(PLAIN) == shared_key(applicant(seed=3, lora={"rank": 2}, optimization={"max_steps": 1}))
    assert shared_key(applicant(lora={"targets": ["k", "q"]})) == shared_key(applicant(lora={"targets": ["q", "k"]}))
    assert shared_key(PLAIN) == shared_key(applicant(method="supervised", guidance={"variant": "exact"}))
    assert len({shared_key(each) for each in (PLAIN, applicant("b"), applicant(lora={"targets": ["q"]}))}) == 3


@pytest.mark.parametrize("alone", ALONE)
def test_some_jobs_are_alone_whoever_came_first(alone: Applicant) -> None:
    company = Company(4)
    assert company.suits(alone)
    with company.enter(alone) as member:
        assert not member.shared
        assert not company.suits(PLAIN) and not company.suits(alone)
    with company.enter(PLAIN) as member:
        assert member.shared
        assert company.suits(PLAIN) and not company.suits(alone)


def test_a_pack_takes_no_more_than_it_may_and_none_of_another_kind() -> None:
    company = Company(2)
    with company.enter(PLAIN):
        assert not company.suits(applicant("b"))
        with company.enter(PLAIN):
            assert not company.suits(PLAIN)
        assert company.suits(PLAIN)
    assert company.suits(applicant("b"))


def test_a_worker_for_one_job_trains_it_by_itself() -> None:
    with Company(1).enter(PLAIN) as member:
        assert not member.shared
