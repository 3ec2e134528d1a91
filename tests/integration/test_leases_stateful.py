"""Workers that claim, report, die, come back as zombies and race with callers, in any order, on both databases."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_store.checkpoints import Checkpoints
from sgg_store.database import Database
from sgg_store.errors import LeaseLostError, TransitionError
from sgg_store.events import Events, NewEvent
from sgg_store.job_state import TERMINAL, AttemptState, JobStatus
from sgg_store.jobs import Jobs, Start
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.leases import JobResult, Lease, Leases
from sgg_store.records import AttemptRecord, EventRecord, JobRecord
from sgg_store.retries import BUDGETS, Cause, retried_causes
from sgg_store.testing import add_job

TINY = 0.02


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
    ended: dict[tuple[Cause, int], int] = field(default_factory=dict)


class LeaseMachine(RuleBasedStateMachine):
    """Drives the lease module and a model of it side by side."""

    database: Database
    jobs: Bundle[str] = Bundle("jobs")
    leases: Bundle[Lease] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[str, Expected] = {}

    @rule(target=jobs)
    def submit(self) -> str:
        with self.database.begin() as session:
            job_id = add_job(session).id
        self.expected[job_id] = Expected()
        return job_id

    @rule(target=jobs, source=jobs)
    def submit_from_a_checkpoint(self, source: str) -> object:
        with self.database.begin() as session:
            checkpoint = Checkpoints(session).newest(source)
            if checkpoint is None:
                return multiple()
            job_id = add_job(session, start=Start("a checkpoint", checkpoint_id=checkpoint.id)).id
        self.expected[job_id] = Expected(starts_from=checkpoint.id)
        return job_id

    @rule()
    def drop_all_outdated_checkpoints(self) -> None:
        """As retention does, as if every job had ended long ago."""
        with self.database.begin() as session:
            dropped = {checkpoint.id for checkpoint in Checkpoints(session).drop_outdated(-60.0, 1000)}
        waiting = [job for job in self.expected.values() if job.status not in TERMINAL]
        assert not dropped & {job.starts_from for job in waiting}

    @rule(target=leases, job_id=jobs)
    def claim(self, job_id: str) -> object:
        job = self.expected[job_id]
        with self.database.begin() as session:
            claimed = Leases(session).claim(job_id, "w")
        assert (claimed is not None) == (job.status is JobStatus.QUEUED)
        if claimed is None:
            return multiple()
        assert (claimed.checkpoint.step if claimed.checkpoint else 0) == job.newest_step
        assert (claimed.start.id if claimed.start else None) == job.starts_from
        job.status, job.live, job.start_step = JobStatus.RUNNING, claimed.lease, job.newest_step
        return claimed.lease

    @rule(lease=leases)
    def heartbeat(self, lease: Lease) -> None:
        def beat(session: Session) -> None:
            signals = Leases(session).heartbeat(lease, 1)
            expected = self.expected[lease.job_id]
            assert (signals.cancel_requested, signals.pause_requested) == (
                expected.cancel_requested,
                expected.pause_requested,
            )

        self._write(lease, beat)

    @rule(lease=leases, count=st.integers(0, 3))
    def tell(self, lease: Lease, count: int) -> None:
        self._write(lease, lambda session: Events(session).append(lease, [NewEvent("hello")] * count))

    @rule(lease=leases)
    def save_checkpoint(self, lease: Lease) -> None:
        job = self.expected[lease.job_id]
        step = job.newest_step + 1
        if self._write(lease, lambda session: Checkpoints(session).append(lease, step, "prefix", {}, {})):
            job.newest_step = step

    @rule(lease=leases)
    def succeed(self, lease: Lease) -> None:
        result = JobResult(fine_tuned_model=f"ft:{lease.job_id}", trained_tokens=1, result_file_ids=("file-1",))
        if self._write(lease, lambda session: Leases(session).succeed(lease, result)):
            self._ended(lease, JobStatus.SUCCEEDED)

    @rule(lease=leases)
    def fail(self, lease: Lease) -> None:
        if self._write(lease, lambda session: Leases(session).fail(lease, "out_of_memory", "Too large.")):
            self._ended(lease, JobStatus.FAILED)

    @rule(lease=leases)
    def obey_cancellation(self, lease: Lease) -> None:
        if self.expected[lease.job_id].cancel_requested and self._write(
            lease, lambda session: Leases(session).cancelled(lease)
        ):
            self._ended(lease, JobStatus.CANCELLED)

    @rule(lease=leases)
    def stop_for_a_pause(self, lease: Lease) -> None:
        """Also when it was withdrawn meanwhile, or a cancellation came."""
        if self._write(lease, lambda session: Leases(session).paused(lease)):
            job = self.expected[lease.job_id]
            rests = JobStatus.PAUSED if job.pause_requested else JobStatus.QUEUED
            self._ended(lease, JobStatus.CANCELLED if job.cancel_requested else rests)

    @rule(lease=leases, cause=st.sampled_from(retried_causes()))
    def give_back(self, lease: Lease, cause: Cause) -> None:
        if self._write(lease, lambda session: Leases(session).give_back(lease, cause, "told to")):
            self._ended(lease, self._after(lease, cause))

    @rule(lease=leases)
    def fall_silent_until_reaped(self, lease: Lease) -> None:
        if not self._write(lease, lambda session: Leases(session, TINY).heartbeat(lease)):
            return
        time.sleep(TINY * 2)
        with pytest.raises(LeaseLostError), self.database.begin() as session:
            Leases(session).guard(lease)
        with self.database.begin() as session:
            assert Leases(session).expire_overdue() == [lease.job_id]
        self._ended(lease, self._after(lease, Cause.LOST))

    @rule()
    def reap_nothing(self) -> None:
        with self.database.begin() as session:
            assert Leases(session).expire_overdue() == []

    @rule(job_id=jobs)
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

    @rule(job_id=jobs)
    def request_pause(self, job_id: str) -> None:
        job = self.expected[job_id]
        if self._steer(Jobs.request_pause, job_id, job.status not in TERMINAL and not job.cancel_requested):
            if job.status is not JobStatus.RUNNING:
                job.status = JobStatus.PAUSED
            job.pause_requested = job.status is JobStatus.RUNNING

    @rule(job_id=jobs)
    def resume(self, job_id: str) -> None:
        job = self.expected[job_id]
        withdrawn = job.pause_requested and not job.cancel_requested
        if self._steer(Jobs.resume, job_id, job.status is JobStatus.PAUSED or withdrawn):
            job.pause_requested = False
            if job.status is JobStatus.PAUSED:
                job.status = JobStatus.QUEUED

    @rule(job_id=consumes(jobs))
    def look_away(self, job_id: str) -> None:
        """Concentrates the rules on fewer jobs; the invariants go on watching this one."""

    def _steer(self, wish: Callable[[Jobs, str, str], object], job_id: str, allowed: bool) -> bool:
        """Tell a wish; it must be taken exactly if the model says so, and otherwise change nothing."""
        if allowed:
            with self.database.begin() as session:
                wish(Jobs(session), DEFAULT_PROJECT_ID, job_id)
        else:
            with pytest.raises(TransitionError), self.database.begin() as session:
                wish(Jobs(session), DEFAULT_PROJECT_ID, job_id)
        return allowed

    def _write(self, lease: Lease, write: Callable[[Session], object]) -> bool:
        """Do a write; it must work exactly if the model says that the lease lives."""
        if self.expected[lease.job_id].live == lease:
            with self.database.begin() as session:
                write(session)
            return True
        with pytest.raises(LeaseLostError), self.database.begin() as session:
            write(session)
        return False

    def _after(self, lease: Lease, cause: Cause) -> JobStatus:
        job = self.expected[lease.job_id]
        count = job.ended[cause, job.start_step] = job.ended.get((cause, job.start_step), 0) + 1
        if job.cancel_requested:
            return JobStatus.CANCELLED
        if count >= BUDGETS[cause].attempts:
            return JobStatus.FAILED
        return JobStatus.PAUSED if job.pause_requested else JobStatus.QUEUED

    def _ended(self, lease: Lease, status: JobStatus) -> None:
        job = self.expected[lease.job_id]
        job.live, job.status, job.pause_requested = None, status, False

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


def test_leases_keep_their_promises_in_any_order(database: Database) -> None:
    machine = type("BoundLeaseMachine", (LeaseMachine,), {"database": database})
    few = settings(
        max_examples=12,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(machine, settings=few)
