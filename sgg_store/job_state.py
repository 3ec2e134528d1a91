"""Statuses of jobs and states of attempts, and which may follow which. Pure.

The state graph of a job, one line per transition; nothing leads out of the statuses that are final:

    queued  -- claimed by a worker --> running
    queued  -- paused in the queue --> paused
    queued  -- cancelled before it began --> cancelled
    running -- attempt lost or given back --> queued
    running -- pause obeyed --> paused
    running -- result published --> succeeded
    running -- failed for good --> failed
    running -- cancellation obeyed --> cancelled
    paused  -- resumed --> queued
    paused  -- cancelled while paused --> cancelled
"""

from __future__ import annotations

from enum import StrEnum

from sgg_store.errors import TransitionError


class JobStatus(StrEnum):
    """What a caller sees of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    """What became of one worker's try at a job."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    PREEMPTED = "preempted"
    PAUSED = "paused"


TRANSITIONS: dict[tuple[JobStatus, JobStatus], str] = {
    (JobStatus.QUEUED, JobStatus.RUNNING): "claimed by a worker",
    (JobStatus.QUEUED, JobStatus.PAUSED): "paused in the queue",
    (JobStatus.QUEUED, JobStatus.CANCELLED): "cancelled before it began",
    (JobStatus.RUNNING, JobStatus.QUEUED): "attempt lost or given back",
    (JobStatus.RUNNING, JobStatus.PAUSED): "pause obeyed",
    (JobStatus.RUNNING, JobStatus.SUCCEEDED): "result published",
    (JobStatus.RUNNING, JobStatus.FAILED): "failed for good",
    (JobStatus.RUNNING, JobStatus.CANCELLED): "cancellation obeyed",
    (JobStatus.PAUSED, JobStatus.QUEUED): "resumed",
    (JobStatus.PAUSED, JobStatus.CANCELLED): "cancelled while paused",
}

TERMINAL: frozenset[JobStatus] = frozenset(set(JobStatus) - {source for source, _ in TRANSITIONS})
ACTIVE: frozenset[JobStatus] = frozenset(JobStatus) - TERMINAL


def check_transition(job_id: str, source: JobStatus, target: JobStatus) -> None:
    """Raise TransitionError unless the table holds source -> target."""
    if (source, target) not in TRANSITIONS:
        raise TransitionError(job_id, source, f"made {target}")


def state_graph() -> str:
    """The transition table as text, one line per transition: the graph in this module's docstring."""
    return "\n".join(f"    {source:<7} -- {label} --> {target}" for (source, target), label in TRANSITIONS.items())
