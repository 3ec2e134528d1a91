"""How long a run will take, told from its work and from what the parts of earlier ones took here.

Two things differ from one machine to the next, and not alike: how fast tokens pass through a base model, and how long
all that takes that no token is part of. The first shows in the steps of earlier jobs, the second in what is left of
their durations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from sqlalchemy import Float, cast, func, select
from sqlalchemy.orm import Session

from sgg_core.reporting import ReferenceSeconds
from sgg_store.job_state import JobStatus
from sgg_store.outlook import Spread, spread_of
from sgg_store.records import EventRecord, JobRecord, MetricRecord

RECENT_JOBS = 20
EARLY_EVENTS = 20  # of a job, among which is the one of its beginning
UNSEEN = Spread(0.5, 1.0, 2.0)
"""Durations in units of what is expected, where no job of a base model was seen."""
FEW_JOBS = 5
FEW = Spread(0.8, 1.0, 1.3)
"""How unsure fewer jobs are taken to leave one."""
LEAST_SHARE = 0.2
"""Of the reference: an earlier job whose steps were slower than the rest of it does not make the rest free."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What parts of a run take here, in units of the reference machine's seconds."""

    pace: float = 1.0
    overhead: float = 1.0

    def seconds(self, reference: ReferenceSeconds) -> float:
        """How long a run takes here."""
        return self.pace * (reference.steps + reference.passes) + self.overhead * reference.fixed


@dataclass(frozen=True, slots=True)
class Seen:
    """A job that succeeded: what was foretold of it, how long its steps took, and how long all of it."""

    reference: ReferenceSeconds
    steps: float
    took: float

    def machine(self) -> Machine:
        """The machine that would need just as long."""
        pace = self.steps / self.reference.steps
        rest = self.took - self.steps - pace * self.reference.passes
        return Machine(pace, max(LEAST_SHARE, rest / self.reference.fixed))


def expected_duration(session: Session, base_model: str, reference: ReferenceSeconds) -> Spread:
    """How long a run takes whose parts take so long on the reference machine (sgg_core.estimate).

    Told by the newest succeeded jobs on its base model; where there are none, by those on others, and less surely.
    Those that needed several attempts are left out.
    """
    seen = _seen(session, base_model)
    if not seen:
        return UNSEEN.times(machine_of(_seen(session, None)).seconds(reference))
    machine = machine_of(seen)
    likely = machine.seconds(reference)
    if len(seen) < FEW_JOBS:
        return FEW.times(likely)
    return spread_of([each.took / machine.seconds(each.reference) for each in seen]).times(likely)


def machine_of(seen: Sequence[Seen]) -> Machine:
    """The machine that these jobs show; the reference where there are none."""
    if not seen:
        return Machine()
    machines = [each.machine() for each in seen]
    return Machine(median(each.pace for each in machines), median(each.overhead for each in machines))


def _seen(session: Session, base_model: str | None) -> list[Seen]:
    """The newest succeeded jobs, on one base model or all, less those of older versions, which foretold nothing."""
    query = (
        select(JobRecord.id, JobRecord.finished_at - JobRecord.started_at, JobRecord.step, JobRecord.total_steps)
        .where(JobRecord.status == JobStatus.SUCCEEDED, JobRecord.current_attempt == 1)
        .order_by(JobRecord.finished_at.desc())
        .limit(RECENT_JOBS)
    )
    if base_model is not None:
        query = query.where(JobRecord.base_model == base_model)
    found = session.execute(query)
    jobs = {job_id: (float(took), step / total) for job_id, took, step, total in found if took and total}
    foretold, in_steps = _foretold(session, list(jobs)), _in_steps(session, list(jobs))
    return [
        Seen(_done(foretold[job_id], share), in_steps[job_id], took)
        for job_id, (took, share) in jobs.items()
        if job_id in foretold and job_id in in_steps
    ]


def _done(reference: ReferenceSeconds, share: float) -> ReferenceSeconds:
    """What was foretold of a job that ended after this share of its steps: patience may have ended it."""
    return reference.model_copy(update={"steps": share * reference.steps, "passes": share * reference.passes})


def _foretold(session: Session, job_ids: Sequence[str]) -> dict[str, ReferenceSeconds]:
    """What the trainer said at the beginning of these jobs, the first time."""
    steps, passes, fixed = (EventRecord.data[("reference", part)].as_float() for part in ("steps", "passes", "fixed"))
    query = (
        select(EventRecord.job_id, steps, passes, fixed)
        .where(EventRecord.job_id.in_(job_ids), EventRecord.seq <= EARLY_EVENTS, steps.is_not(None))
        .order_by(EventRecord.seq.desc())  # so that a job's first one is what remains
    )
    return {
        job_id: ReferenceSeconds(steps=of_steps, passes=of_passes, fixed=of_rest)
        for job_id, of_steps, of_passes, of_rest in session.execute(query)
    }


def _in_steps(session: Session, job_ids: Sequence[str]) -> dict[str, float]:
    """Seconds that all steps of these jobs took together."""
    seconds = cast(MetricRecord.figures["seconds"].as_string(), Float)
    query = (
        select(MetricRecord.job_id, func.sum(seconds))
        .where(MetricRecord.job_id.in_(job_ids), MetricRecord.type == "step")
        .group_by(MetricRecord.job_id)
    )
    return {job_id: float(total) for job_id, total in session.execute(query) if total}
