"""Objects that nothing needs: what dead attempts left, what no row names. Found by asking the rows, batch by batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice

from sqlalchemy import select
from sqlalchemy.orm import Session

from sgg_store.database import Database
from sgg_store.job_state import AttemptState
from sgg_store.objects import ObjectStore, StoredObject
from sgg_store.records import AttemptRecord, CheckpointRecord, FileRecord, UploadPartRecord

_BATCH = 500
_OF_ATTEMPT = re.compile(r"(jobs/([^/]+)/attempts/[^/]+)/.+")

Needed = Callable[[Session, Sequence[str]], Collection[str]]


def find_garbage(
    database: Database, objects: ObjectStore, grace_seconds: float, go_on: Callable[[], bool] = lambda: True
) -> Iterator[StoredObject]:
    """Objects that no row needs, except those younger than `grace_seconds`: their row may be on its way.

    Looks only where SGG puts things (`AREAS`), so that a bucket may hold other things, too. Asks `go_on` before each
    batch, and ends where that says no.
    """
    for folder, needed in AREAS.items():
        for batch in _batches(objects.list(folder)):
            if not go_on():
                return
            with database.read() as session:
                kept = needed(session, [found.key for found in batch])
            born_before = database.now() - grace_seconds
            yield from (found for found in batch if found.key not in kept and found.modified_at < born_before)


def find_needed(database: Database, objects: ObjectStore, before: float) -> bool | None:
    """Whether some row needs one of the objects that are older than `before`; None if there are none."""
    found = None
    for folder, needed in AREAS.items():
        for batch in _batches(objects.list(folder) if needed is not _needed_never else ()):
            older = [each.key for each in batch if each.modified_at < before]
            with database.read() as session:
                if older and needed(session, older):
                    return True
            found = False if older else found
    return found


def _needed_files(session: Session, keys: Sequence[str]) -> Collection[str]:
    return set(session.scalars(select(FileRecord.object_key).where(FileRecord.object_key.in_(keys))))


def _needed_of_jobs(session: Session, keys: Sequence[str]) -> Collection[str]:
    """Results that are files, reports, all of recorded checkpoints, and what a running attempt has stored so far."""
    matches = [match for match in map(_OF_ATTEMPT.fullmatch, keys) if match is not None]
    job_ids = {match[2] for match in matches}
    attempts = session.scalars(  # asked first: what one records before it ends is then seen below
        select(AttemptRecord).where(
            AttemptRecord.job_id.in_(job_ids), AttemptRecord.state.in_((AttemptState.RUNNING, AttemptState.SUCCEEDED))
        )
    ).all()
    checkpoints = session.scalars(select(CheckpointRecord.object_prefix).where(CheckpointRecord.job_id.in_(job_ids)))
    folders = set(checkpoints)
    for each in attempts:
        folder = f"jobs/{each.job_id}/attempts/{each.number}-{each.token}"
        folders.add(folder if each.state is AttemptState.RUNNING else f"{folder}/report")
    below = {match[0] for match in matches if match[1] in folders or match[0].rpartition("/")[0] in folders}
    return below | set(_needed_files(session, keys))


def _needed_parts(session: Session, keys: Sequence[str]) -> Collection[str]:
    return set(session.scalars(select(UploadPartRecord.object_key).where(UploadPartRecord.object_key.in_(keys))))


def _needed_never(session: Session, keys: Sequence[str]) -> Collection[str]:
    return ()


AREAS: dict[str, Needed] = {
    "files": _needed_files,
    "uploads": _needed_parts,
    "jobs": _needed_of_jobs,
    "health": _needed_never,  # what a probe left that was killed
    "_parts": _needed_never,  # what a large put left that was killed
}
"""Folders of the object store, and which of some keys in them are needed."""


def _batches(found: Iterable[StoredObject]) -> Iterator[list[StoredObject]]:
    remaining = iter(found)
    while batch := list(islice(remaining, _BATCH)):
        yield batch
