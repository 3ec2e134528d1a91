"""What must be true after every fault, whatever it was: the service's promises, read from its rows and objects."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_store.database import Database
from sgg_store.files import Files
from sgg_store.job_state import TERMINAL, AttemptState, JobStatus
from sgg_store.objects import ObjectStore
from sgg_store.records import AttemptRecord, CheckpointRecord, EventRecord, JobRecord
from worker.checkpoint_transfer import MANIFEST

WAITING = frozenset(JobStatus) - TERMINAL - {JobStatus.RUNNING}
Endings = dict[str, tuple[Any, ...]]


def check_invariants(database: Database, objects: ObjectStore, endings: Endings) -> None:
    """Check every job of the database. `endings` remembers between calls how jobs ended, which never changes.

    What a job has stored is not looked at again once `endings` knows its end. Assumes that no reaper is late: an
    attempt whose lease ran out counts as a violation.
    """
    with database.read() as session:
        tokens: list[str] = []
        for job in session.scalars(select(JobRecord)).all():
            attempts = _rows(session, AttemptRecord, job, AttemptRecord.number)
            tokens += [attempt.token for attempt in attempts]
            _check_attempts(job, attempts, database.now())
            _check_events(job, _rows(session, EventRecord, job, EventRecord.seq))
            _check_result(job)
            if job.id not in endings:
                _check_checkpoints(objects, _rows(session, CheckpointRecord, job, CheckpointRecord.step), attempts)
                _check_files(session, objects, job)
            _check_ending(job, endings)
        assert len(tokens) == len(set(tokens)), "a token was used twice"


def most_at_once(database: Database) -> int:
    """How many attempts, all of which have ended, ran at the same moment."""
    with database.read() as session:
        attempts = session.scalars(select(AttemptRecord)).all()
    return max(
        sum(other.started_at <= attempt.started_at < (other.ended_at or 0) for other in attempts)
        for attempt in attempts
    )


def _check_attempts(job: JobRecord, attempts: list[AttemptRecord], now: float) -> None:
    states = [attempt.state for attempt in attempts]
    assert [attempt.number for attempt in attempts] == list(range(1, job.current_attempt + 1)), job.id
    assert AttemptState.RUNNING not in states[:-1], f"{job.id}: an attempt before the last one runs"
    assert states.count(AttemptState.SUCCEEDED) == (job.status is JobStatus.SUCCEEDED), job.id
    runs = states[-1:] == [AttemptState.RUNNING]
    assert runs == (job.status is JobStatus.RUNNING), f"{job.id} is {job.status}, its attempts are {states}"
    assert not runs or attempts[-1].lease_expires_at > now, f"{job.id} runs without a live lease"
    assert runs or job.status in TERMINAL or job.status in WAITING, f"{job.id} is {job.status}"


def _check_events(job: JobRecord, events: list[EventRecord]) -> None:
    assert [event.seq for event in events] == list(range(1, job.last_event_seq + 1)), f"{job.id}: gaps in its events"
    told_end = ("The job succeeded", "The job was cancelled")
    ends = [event.seq for event in events if event.message.startswith(told_end) or event.level == "error"]
    assert ends == ([job.last_event_seq] if job.status in TERMINAL else []), f"{job.id}: events after its end, or none"


def _check_checkpoints(
    objects: ObjectStore, checkpoints: list[CheckpointRecord], attempts: list[AttemptRecord]
) -> None:
    folders = {f"jobs/{one.job_id}/attempts/{one.number}-{one.token}/checkpoints" for one in attempts}
    for checkpoint in checkpoints:
        prefix = checkpoint.object_prefix
        assert prefix.rpartition("/")[0] in folders, f"{prefix} is of no attempt of its job"
        if checkpoint.damaged:
            continue
        assert json.loads(_content(objects, f"{prefix}/{MANIFEST}")) == checkpoint.manifest, prefix
        for name, facts in checkpoint.manifest.items():
            _verify(objects, f"{prefix}/{name}", facts["bytes"], facts["sha256"])


def _check_result(job: JobRecord) -> None:
    succeeded = job.status is JobStatus.SUCCEEDED
    assert (job.fine_tuned_model is not None) == bool(job.result_file_ids) == succeeded, job.id
    assert (job.error_code is not None) == (job.status is JobStatus.FAILED), job.id
    assert (job.finished_at is not None) == (job.status in TERMINAL), job.id


def _check_files(session: Session, objects: ObjectStore, job: JobRecord) -> None:
    for file_id in job.result_file_ids:
        file = Files(session).get(job.project_id, file_id)
        _verify(objects, file.object_key, file.bytes, file.sha256)


def _check_ending(job: JobRecord, endings: Endings) -> None:
    ending = (job.status, job.finished_at, job.error_code, job.fine_tuned_model, job.last_event_seq)
    if job.status in TERMINAL:
        assert endings.setdefault(job.id, ending) == ending, f"{job.id} changed after its end"
    else:
        assert job.id not in endings, f"{job.id} is {job.status} after its end"


def _verify(objects: ObjectStore, key: str, size: int, sha256: str) -> None:
    content = _content(objects, key)
    assert (len(content), hashlib.sha256(content).hexdigest()) == (size, sha256), f"{key} is not what was stored"


def _content(objects: ObjectStore, key: str) -> bytes:
    return b"".join(objects.open(key))


def _rows(session: Session, record: Any, job: JobRecord, order: Any) -> list[Any]:
    return list(session.scalars(select(record).where(record.job_id == job.id).order_by(order)))
