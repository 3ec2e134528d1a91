"""How much memory a queued job will need, told from what trainers counted of earlier runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sgg_core.reporting import MemoryNeed
from sgg_core.spec import LoraSpec, OptimizationSpec
from sgg_store.job_state import JobStatus
from sgg_store.records import EventRecord, JobRecord

RECENT_JOBS = 20
EARLY_EVENTS = 20  # of a job, among which is the one of its beginning


def expected_need(session: Session, job_id: str, base_model: str, spec: Mapping[str, Any]) -> MemoryNeed | None:
    """What the trainer counted when the job itself began before; else the most that the newest jobs on its base model
    needed, with adapters of the rank of its spec, for as many replicas as it wants. None where none is known.

    Its texts are not looked at: those of the others say how large passes are here, and the passes are bounded.
    """
    own = _counted(session, [job_id])
    if own:
        return own[0][0]
    newest = (
        select(JobRecord.id)
        .where(JobRecord.base_model == base_model, JobRecord.status == JobStatus.SUCCEEDED)
        .order_by(JobRecord.finished_at.desc())
        .limit(RECENT_JOBS)
    )
    seen = _counted(session, session.scalars(newest).all())
    if not seen:
        return None
    rank = _rank(spec)
    return MemoryNeed(
        shared=max(need.shared for need, _ in seen),
        adapter=max(need.adapter * rank // of_rank for need, of_rank in seen),
        passes=max(need.passes for need, _ in seen),
        replicas=OptimizationSpec.model_validate(spec.get("optimization", {})).most_at_once,
    )


def _counted(session: Session, job_ids: Sequence[str]) -> list[tuple[MemoryNeed, int]]:
    """What the trainer said at the beginning of these jobs, the first time, and their ranks."""
    shared, adapter, passes, replicas = (
        EventRecord.data[("memory", part)].as_float() for part in ("shared", "adapter", "passes", "replicas")
    )
    query = (
        select(EventRecord.job_id, shared, adapter, passes, func.coalesce(replicas, 1), JobRecord.spec)
        .join(JobRecord, JobRecord.id == EventRecord.job_id)
        .where(EventRecord.job_id.in_(job_ids), EventRecord.seq <= EARLY_EVENTS, shared.is_not(None))
        .order_by(EventRecord.seq.desc())  # so that a job's first one is what remains
    )
    counted = {
        job_id: (
            MemoryNeed(shared=int(base), adapter=int(weights), passes=int(states), replicas=int(at_once)),
            _rank(spec),
        )
        for job_id, base, weights, states, at_once, spec in session.execute(query)
    }
    return list(counted.values())


def _rank(spec: Mapping[str, Any]) -> int:
    return LoraSpec.model_validate(spec.get("lora", {})).rank
