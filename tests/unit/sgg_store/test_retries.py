"""Budgets of causes, and how long to wait."""

from __future__ import annotations

import pytest

from sgg_store.retries import BUDGETS, Cause, Failure, decide, ring_delay

RETRIED = [cause for cause, budget in BUDGETS.items() if budget.attempts > 1]


def test_every_cause_has_a_budget() -> None:
    assert set(BUDGETS) == set(Cause)


@pytest.mark.parametrize("cause", RETRIED)
def test_a_job_is_tried_until_the_budget_is_used_up(cause: Cause) -> None:
    budget = BUDGETS[cause]
    verdicts = [decide(cause, ended_before) for ended_before in range(budget.attempts)]
    assert all(isinstance(verdict, float) for verdict in verdicts[:-1])
    final = verdicts[-1]
    assert isinstance(final, Failure)
    assert final.code
    assert "submit the job again" in final.message


def test_faults_of_the_user_s_data_are_not_tried_again() -> None:
    assert set(RETRIED) == set(Cause) - {Cause.USER, Cause.INTERNAL}


def test_waiting_grows_but_stays_bounded() -> None:
    delays = [ring_delay(rings) for rings in range(100)]
    assert delays == sorted(delays)
    assert delays[0] == 2.0
    assert delays[-1] == 60.0
    assert all(decide(cause, BUDGETS[cause].attempts - 2) <= 300.0 for cause in RETRIED)
