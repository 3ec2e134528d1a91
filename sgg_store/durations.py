"""How long a run will take, told from its work and from how long the work of earlier ones took here."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_store.job_state import JobStatus
from sgg_store.outlook import Spread, spread_of
from sgg_store.records import EventRecord, JobRecord

RECENT_JOBS = 20
EARLY_EVENTS = 20  # of a job, among which is the one of its beginning
UNSEEN = Spread(0.5, 1.0, 2.0)
"""Durations in units of the reference machine's, where no job of a base model was seen."""
FEW_JOBS = 5
FEW = Spread(0.8, 1.0, 1.3)
"""How unsure fewer jobs are taken to leave one."""


def expected_duration(session: Session, base_model: str, reference_seconds: float) -> Spread:
    """How long a run takes whose work takes so long on the reference machine (sgg_core.estimate): as much longer or
    shorter as the newest succeeded jobs on this base model took. Those that needed several attempts are left out.
    """
    query = (
        select(JobRecord.id, JobRecord.finished_at - JobRecord.started_at)
        .where(
            JobRecord.base_model == base_model,
            JobRecord.status == JobStatus.SUCCEEDED,
            JobRecord.current_attempt == 1,
        )
        .order_by(JobRecord.finished_at.desc())
        .limit(RECENT_JOBS)
    )
    took = {job_id: float(seconds) for job_id, seconds in session.execute(query) if seconds is not None}
    ratios = [took[job_id] / seconds for job_id, seconds in _reference_seconds(session, list(took)).items()]
    if not ratios:
        return UNSEEN.times(reference_seconds)
    if len(ratios) < FEW_JOBS:
        return FEW.times(median(ratios) * reference_seconds)
    return spread_of(ratios).times(reference_seconds)


def _reference_seconds(session: Session, job_ids: Sequence[str]) -> dict[str, float]:
    """What the trainer said at the beginning of these jobs; jobs of older versions are left out."""
    said = EventRecord.data["reference_seconds"].as_float()
    query = select(EventRecord.job_id, said).where(
        EventRecord.job_id.in_(job_ids), EventRecord.seq <= EARLY_EVENTS, said.is_not(None)
    )
    return {job_id: float(seconds) for job_id, seconds in session.execute(query) if seconds}
