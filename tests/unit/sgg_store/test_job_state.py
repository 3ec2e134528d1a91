"""The transition table and the graph that is drawn from it."""

from __future__ import annotations

from itertools import product

import pytest

from sgg_store import job_state
from sgg_store.errors import TransitionError
from sgg_store.job_state import ACTIVE, TERMINAL, TRANSITIONS, JobStatus, check_transition, state_graph


def test_the_docstring_shows_the_transition_table() -> None:
    assert state_graph() in (job_state.__doc__ or "")


def test_final_statuses_are_those_that_openai_calls_final() -> None:
    assert {"succeeded", "failed", "cancelled"} == TERMINAL
    assert {"queued", "running", "paused"} == ACTIVE


@pytest.mark.parametrize(("source", "target"), list(product(JobStatus, JobStatus)))
def test_only_the_table_s_transitions_pass(source: JobStatus, target: JobStatus) -> None:
    if (source, target) in TRANSITIONS:
        check_transition("ftjob-1", source, target)
    else:
        with pytest.raises(TransitionError, match=f"ftjob-1 is {source}"):
            check_transition("ftjob-1", source, target)


def test_every_status_can_be_reached_and_left_for_a_final_one() -> None:
    reached = {JobStatus.QUEUED}
    for _ in JobStatus:
        reached |= {target for source, target in TRANSITIONS if source in reached}
    assert reached == set(JobStatus)
    assert all(any(source is status for source, _ in TRANSITIONS) for status in ACTIVE)
