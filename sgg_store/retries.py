"""Why an attempt ended without a result, and whether its job is tried again. Pure.

Every cause has a budget of its own, and a budget counts only the attempts that started from the same step: a job that
saved a checkpoint since then has made progress and starts counting anew. Causes that lie in the user's data or
settings have a budget of one attempt, since a second one would end the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why an attempt ended without a result."""

    USER = "user"  # bad data or settings, divergence, too large for the device: the error says which
    INTERNAL = "internal"  # a defect of the service; the same input meets it again
    CRASHED = "crashed"  # the trainer process died, or stopped making progress, under a healthy worker
    LOST = "lost"  # the worker fell silent: killed, cut off, or its machine went away
    PREEMPTED = "preempted"  # the worker gave the job back because it was told to stop
    DATABASE = "database"  # the worker fenced itself because it could not reach the database
    STORAGE = "storage"  # the object store was out of reach, or a disk was full


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed, as its caller reads it. `param` names the request field that is to blame, if one is."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """How often one cause may end attempts that start from one step, and how long to wait before the next attempt."""

    attempts: int
    delay_seconds: float
    code: str = ""
    explanation: str = ""

    def exhausted(self, ended_before: int) -> bool:
        """Whether one more attempt ending this way is the last. `ended_before` counts the earlier ones."""
        return ended_before + 1 >= self.attempts

    def failure(self) -> Failure:
        """What the caller is told when the budget is used up."""
        return Failure(self.code, self.explanation)


BUDGETS: dict[Cause, Budget] = {
    Cause.USER: Budget(1, 0.0),
    Cause.INTERNAL: Budget(1, 0.0),
    Cause.CRASHED: Budget(
        2,
        1.0,
        "poison_job",
        "The trainer died twice after resuming from the same step, so the job is not tried again. "
        "Look at the last events for the step and signal, lower batch_size, task.max_tokens or lora.rank, "
        "and submit the job again.",
    ),
    Cause.LOST: Budget(
        5,
        0.0,
        "worker_lost",
        "Five workers in a row stopped responding while they ran this job from the same step. "
        "Ask the administrator to look at the workers' memory and logs, then submit the job again.",
    ),
    Cause.PREEMPTED: Budget(
        100,
        0.0,
        "preempted_too_often",
        "The job was given back 100 times without reaching a checkpoint. "
        "Lower checkpoint.every_steps so that short stretches of work count, and submit the job again.",
    ),
    Cause.DATABASE: Budget(
        50,
        1.0,
        "database_unavailable",
        "The database was out of reach in 50 attempts in a row. "
        "Ask the administrator to restore it, then submit the job again.",
    ),
    Cause.STORAGE: Budget(
        5,
        10.0,
        "storage_unavailable",
        "The file storage was full or out of reach in five attempts in a row. "
        "Ask the administrator to free space or restore it, then submit the job again.",
    ),
}

_LONGEST_DELAY_SECONDS = 300.0


def decide(cause: Cause, ended_before: int) -> Failure | float:
    """Give the failure that ends the job, or the seconds to wait before it is tried again.

    `ended_before` counts the job's earlier attempts that ended for this cause and started from the same step.
    """
    budget = BUDGETS[cause]
    if budget.exhausted(ended_before):
        return budget.failure()
    return min(_LONGEST_DELAY_SECONDS, budget.delay_seconds * 2.0**ended_before)


SPARE_RINGS = 8
"""So many doorbells more than there are workers may wait to be answered, of all jobs or ahead in a job's own project.

A worker that comes for one goes on until no job is left, and the broker must not fill up
while workers are busy for hours.
"""


def ring_delay(rings: int) -> float:
    """Seconds until a doorbell that was rung `rings` times without a claim is rung again: doubling, then constant."""
    return min(60.0, 2.0 * 2.0 ** min(rings, 30))
