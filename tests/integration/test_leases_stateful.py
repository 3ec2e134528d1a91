"""Workers that claim, report, die, come back as zombies and race with callers, in any order, on both databases."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_store.attempts import Lease, guard
from sgg_store.checkpoints import Checkpoints
from sgg_store.database import Database
from sgg_store.errors import LeaseLostError, RecordNotFoundError, TransitionError
from sgg_store.events import Events, NewEvent
from sgg_store.job_state import TERMINAL, AttemptState, JobStatus
from sgg_store.jobs import Jobs
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.leases import JobResult, Leases
from sgg_store.new_jobs import Start
from sgg_store.records import AttemptRecord, EventRecord, JobRecord
from sgg_store.retries import BUDGETS, Cause
from sgg_store.testing import add_job

TINY = 0.02
LONG = 3600.0  # no lease runs out because the machine is slow
RETRIED = [cause for cause, budget in BUDGETS.items() if budget.attempts > 1]
MOST_JOBS = 2  # the more there are, the less happens to each of them


@dataclass
class Expected:
    """What the state machine expects of a job, in plain values."""

    status: JobStatus = JobStatus.QUEUED
    cancel_requested: bool = False
    pause_requested: bool = False
    live: Lease | None = None
    start_step: int = 0
    newest_step: int = 0
    starts_from: str | None = None
    checkpoints: set[str] = field(default_factory=set)
    ended: dict[tuple[Cause, int], int] = field(default_factory=dict)


def result(lease: Lease) -> JobResult:
    return JobResult(fine_tuned_model=f"ft:{lease.job_id}", trained_tokens=1, result_file_ids=("file-1",))


def submitted(machine: LeaseMachine) -> list[str]:
    return list(machine.expected)


def unfinished(machine: LeaseMachine) -> list[str]:
    return [job_id for job_id, job in machine.expected.items() if job.status not in TERMINAL]


def queued(machine: LeaseMachine) -> list[str]:
    return [job_id for job_id, job in machine.expected.items() if job.status is JobStatus.QUEUED]


def not_queued(machine: LeaseMachine) -> list[str]:
    return [job_id for job_id in machine.expected if job_id not in queued(machine)]


def live(machine: LeaseMachine) -> list[Lease]:
    return [job.live for job in machine.expected.values() if job.live]


def to_be_cancelled(machine: LeaseMachine) -> list[Lease]:
    return [lease for lease in live(machine) if machine.expected[lease.job_id].cancel_requested]


def zombies(machine: LeaseMachine) -> list[Lease]:
    return machine.zombies


def saved(machine: LeaseMachine) -> list[str]:
    return machine.checkpoints


def some(of: Callable[[LeaseMachine], list[Any]]) -> st.SearchStrategy[Any]:
    """One of those that there are now; the rule has a precondition that there is one."""
    return st.runner().flatmap(lambda machine: st.sampled_from(of(machine)))


ZOMBIE_WRITES: list[Callable[[Session, Lease], object]] = [
    lambda session, lease: Leases(session).heartbeat(lease, 1),
    lambda session, lease: Events(session).append(lease, [NewEvent("hello")]),
    lambda session, lease: Checkpoints(session).append(lease, 1, "prefix", {}, {}),
    lambda session, lease: Checkpoints(session).prune(lease, 1, 1),
    lambda session, lease: Leases(session).succeed(lease, result(lease)),
    lambda session, lease: Leases(session).fail(lease, "out_of_memory", "Too large."),
    lambda session, lease: Leases(session).cancelled(lease),
    lambda session, lease: Leases(session).paused(lease),
    lambda session, lease: Leases(session).give_back(lease, Cause.CRASHED),
]


class LeaseMachine(RuleBasedStateMachine):
    """Drives the lease module and a model of it side by side."""

    database: Database
    happened: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[str, Expected] = {}
        self.zombies: list[Lease] = []
        self.checkpoints: list[str] = []  # those that were dropped among them

    @initialize()
    def begin(self) -> None:
        self._submit(None)

    @rule()
    @precondition(lambda self: len(unfinished(self)) < MOST_JOBS)
    def submit(self) -> None:
        self._submit(None)

    @rule(checkpoint_id=some(saved))
    @precondition(lambda self: saved(self) and len(unfinished(self)) < MOST_JOBS)
    def submit_from_a_checkpoint(self, checkpoint_id: str) -> None:
        start = Start("a checkpoint", checkpoint_id=checkpoint_id)
        if any(checkpoint_id in job.checkpoints for job in self.expected.values()):
            self._submit(start)
        else:
            with pytest.raises(RecordNotFoundError):
                self._submit(start)

    @rule()
    @precondition(lambda self: self._outdated())
    def drop_all_outdated_checkpoints(self) -> None:
        """As retention does, as if every job had ended long ago."""
        with self.database.begin() as session:
            dropped = {checkpoint.id for checkpoint in Checkpoints(session).drop_outdated(-60.0, 1000)}
        assert dropped & {*self.checkpoints} == self._outdated()  # among others are those of earlier examples
        for job in self.expected.values():
            job.checkpoints -= dropped
        self.happened["checkpoints dropped"] += 1

    @rule(job_id=some(queued))
    @precondition(queued)
    def claim(self, job_id: str) -> None:
        job = self.expected[job_id]
        with self.database.begin() as session:
            claimed = Leases(session, LONG).claim(job_id, "w")
        assert claimed is not None
        assert (claimed.checkpoint.step if claimed.checkpoint else 0) == job.newest_step
        assert (claimed.start.id if claimed.start else None) == job.starts_from
        job.status, job.live, job.start_step = JobStatus.RUNNING, claimed.lease, job.newest_step
        self.happened["claimed"] += 1
        self.happened["resumed from a checkpoint"] += claimed.checkpoint is not None
        self.happened["started from a checkpoint"] += claimed.start is not None

    @rule(job_id=some(not_queued))
    @precondition(not_queued)
    def claim_in_vain(self, job_id: str) -> None:
        with self.database.begin() as session:
            assert Leases(session, LONG).claim(job_id, "w") is None

    @rule(lease=some(zombies), write=st.sampled_from(ZOMBIE_WRITES))
    @precondition(zombies)
    def come_back_as_a_zombie(self, lease: Lease, write: Callable[[Session, Lease], object]) -> None:
        with pytest.raises(LeaseLostError), self.database.begin() as session:
            write(session, lease)
        self.happened["zombie refused"] += 1

    @rule(lease=some(live))
    @precondition(live)
    def heartbeat(self, lease: Lease) -> None:
        with self.database.begin() as session:
            signals = Leases(session, LONG).heartbeat(lease, 1)
        job = self.expected[lease.job_id]
        assert (signals.cancel_requested, signals.pause_requested) == (job.cancel_requested, job.pause_requested)

    @rule(lease=some(live), count=st.integers(0, 3))
    @precondition(live)
    def tell(self, lease: Lease, count: int) -> None:
        with self.database.begin() as session:
            Events(session).append(lease, [NewEvent("hello")] * count)

    @rule(lease=some(live))
    @precondition(live)
    def save_checkpoint(self, lease: Lease) -> None:
        job = self.expected[lease.job_id]
        with self.database.begin() as session:
            checkpoint = Checkpoints(session).append(lease, job.newest_step + 1, "prefix", {}, {})
        job.newest_step += 1
        job.checkpoints.add(checkpoint.id)
        self.checkpoints.append(checkpoint.id)

    @rule(lease=some(live), well=st.booleans())
    @precondition(live)
    def finish(self, lease: Lease, well: bool) -> None:
        with self.database.begin() as session:
            if well:
                Leases(session).succeed(lease, result(lease))
            else:
                Leases(session).fail(lease, "out_of_memory", "Too large.")
        self._ended(lease, JobStatus.SUCCEEDED if well else JobStatus.FAILED)

    @rule(lease=some(to_be_cancelled))
    @precondition(to_be_cancelled)
    def obey_cancellation(self, lease: Lease) -> None:
        with self.database.begin() as session:
            Leases(session).cancelled(lease)
        self._ended(lease, JobStatus.CANCELLED)

    @rule(lease=some(live))
    @precondition(live)
    def stop_for_a_pause(self, lease: Lease) -> None:
        """Also when it was withdrawn meanwhile, or a cancellation came."""
        with self.database.begin() as session:
            Leases(session).paused(lease)
        job = self.expected[lease.job_id]
        rests = JobStatus.PAUSED if job.pause_requested else JobStatus.QUEUED
        self._ended(lease, JobStatus.CANCELLED if job.cancel_requested else rests)

    @rule(lease=some(live))
    @precondition(live)
    def crash(self, lease: Lease) -> None:
        self._give_back(lease, Cause.CRASHED)

    @rule(lease=some(live), cause=st.sampled_from(RETRIED))
    @precondition(live)
    def give_back(self, lease: Lease, cause: Cause) -> None:
        self._give_back(lease, cause)

    @rule(lease=some(live))
    @precondition(live)
    def fall_silent_until_reaped(self, lease: Lease) -> None:
        with self.database.begin() as session:
            Leases(session, TINY).heartbeat(lease)
        time.sleep(TINY * 2)
        with pytest.raises(LeaseLostError), self.database.begin() as session:
            guard(session, lease)
        with self.database.begin() as session:
            assert Leases(session).expire_overdue() == [lease.job_id]
        self._ended(lease, self._after(lease, Cause.LOST))

    @rule()
    @precondition(live)
    def reap_nothing(self) -> None:
        with self.database.begin() as session:
            assert Leases(session).expire_overdue() == []

    @rule(job_id=some(submitted))
    def request_cancel(self, job_id: str) -> None:
        job = self.expected[job_id]
        if job.status in TERMINAL:
            with pytest.raises(TransitionError), self.database.begin() as session:
                Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job_id)
            return
        with self.database.begin() as session:
            Jobs(session).request_cancel(DEFAULT_PROJECT_ID, job_id)
        if job.status is not JobStatus.RUNNING:
            job.status = JobStatus.CANCELLED
        job.cancel_requested = job.status is JobStatus.RUNNING

    @rule(job_id=some(submitted))
    def request_pause(self, job_id: str) -> None:
        job = self.expected[job_id]
        if self._steer(Jobs.request_pause, job_id, job.status not in TERMINAL and not job.cancel_requested):
            if job.status is not JobStatus.RUNNING:
                job.status = JobStatus.PAUSED
            job.pause_requested = job.status is JobStatus.RUNNING

    @rule(job_id=some(submitted))
    def resume(self, job_id: str) -> None:
        job = self.expected[job_id]
        withdrawn = job.pause_requested and not job.cancel_requested
        if self._steer(Jobs.resume, job_id, job.status is JobStatus.PAUSED or withdrawn):
            job.pause_requested = False
            if job.status is JobStatus.PAUSED:
                job.status = JobStatus.QUEUED

    def _submit(self, start: Start | None) -> None:
        with self.database.begin() as session:
            job_id = add_job(session, start=start).id
        self.expected[job_id] = Expected(starts_from=start.checkpoint_id if start else None)

    def _outdated(self) -> set[str]:
        """The checkpoints of jobs that have ended, but for those that others start from."""
        ended = [job for job in self.expected.values() if job.status in TERMINAL]
        needed = {job.starts_from for job in self.expected.values() if job.status not in TERMINAL}
        return {each for job in ended for each in job.checkpoints if each not in needed}

    def _give_back(self, lease: Lease, cause: Cause) -> None:
        with self.database.begin() as session:
            Leases(session).give_back(lease, cause, "told to")
        self._ended(lease, self._after(lease, cause))

    def _steer(self, wish: Callable[[Jobs, str, str], object], job_id: str, allowed: bool) -> bool:
        """Tell a wish; it must be taken exactly if the model says so, and otherwise change nothing."""
        if allowed:
            with self.database.begin() as session:
                wish(Jobs(session), DEFAULT_PROJECT_ID, job_id)
        else:
            with pytest.raises(TransitionError), self.database.begin() as session:
                wish(Jobs(session), DEFAULT_PROJECT_ID, job_id)
        return allowed

    def _after(self, lease: Lease, cause: Cause) -> JobStatus:
        job = self.expected[lease.job_id]
        count = job.ended[cause, job.start_step] = job.ended.get((cause, job.start_step), 0) + 1
        if job.cancel_requested:
            return JobStatus.CANCELLED
        if count >= BUDGETS[cause].attempts:
            self.happened["budget used up"] += 1
            return JobStatus.FAILED
        return JobStatus.PAUSED if job.pause_requested else JobStatus.QUEUED

    def _ended(self, lease: Lease, status: JobStatus) -> None:
        job = self.expected[lease.job_id]
        job.live, job.status, job.pause_requested = None, status, False
        self.zombies.append(lease)
        self.happened[f"attempt ended, job {status}"] += 1

    @invariant()
    def the_tables_say_what_the_model_says(self) -> None:
        tokens: list[str] = []
        now = self.database.now()
        with self.database.read() as session:
            for job_id, expected in self.expected.items():
                job = session.get_one(JobRecord, job_id)
                assert job.status is expected.status
                assert job.pause_requested == expected.pause_requested
                attempts = session.scalars(select(AttemptRecord).where(AttemptRecord.job_id == job_id)).all()
                check_attempts(job, list(attempts))
                running = [attempt for attempt in attempts if attempt.state is AttemptState.RUNNING]
                assert all(attempt.lease_expires_at > now for attempt in running)
                tokens += [attempt.token for attempt in attempts]
                events = session.scalars(
                    select(EventRecord).where(EventRecord.job_id == job_id).order_by(EventRecord.seq)
                ).all()
                check_events(job, list(events))
        assert len(tokens) == len(set(tokens))


def check_attempts(job: JobRecord, attempts: list[AttemptRecord]) -> None:
    states = [attempt.state for attempt in sorted(attempts, key=lambda attempt: attempt.number)]
    assert job.current_attempt == len(states)
    assert AttemptState.RUNNING not in states[:-1]
    assert (states[-1:] == [AttemptState.RUNNING]) == (job.status is JobStatus.RUNNING)
    assert states.count(AttemptState.SUCCEEDED) == (job.status is JobStatus.SUCCEEDED)
    assert (job.fine_tuned_model is not None) == (job.status is JobStatus.SUCCEEDED)
    assert (job.error_code is not None) == (job.status is JobStatus.FAILED)
    assert (job.finished_at is not None) == (job.status in TERMINAL)


def check_events(job: JobRecord, events: list[EventRecord]) -> None:
    assert [event.seq for event in events] == list(range(1, job.last_event_seq + 1))
    endings = ("The job succeeded", "The job was cancelled")
    final = [event.seq for event in events if event.message.startswith(endings) or event.level == "error"]
    assert final == ([job.last_event_seq] if job.status in TERMINAL else [])


# else each example leaves out about half of the rules, and without claims nothing happens
ALL_RULES = "hypothesis.strategies._internal.featureflags.FeatureFlags.is_enabled"


def test_leases_keep_their_promises_in_any_order(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ALL_RULES, lambda *_: True)
    happened: Counter[str] = Counter()
    machine = type("BoundLeaseMachine", (LeaseMachine,), {"database": database, "happened": happened})
    few = settings(
        max_examples=18,
        stateful_step_count=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(machine, settings=few)
    important = ("claimed", "zombie refused", "resumed from a checkpoint", "started from a checkpoint")
    ends = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.PAUSED, JobStatus.QUEUED)
    endings = (f"attempt ended, job {status}" for status in ends)
    never = [each for each in (*important, "checkpoints dropped", "budget used up", *endings) if not happened[each]]
    assert never == [], happened
