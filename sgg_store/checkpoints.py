"""A job's checkpoints: recorded after their upload, and the first thing a new attempt asks for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, aliased

from sgg_store import ids
from sgg_store.announcements import announce_checkpoint
from sgg_store.attempts import Lease, guard
from sgg_store.events import Events, NewEvent
from sgg_store.job_state import ACTIVE, TERMINAL
from sgg_store.pages import Page, read_page
from sgg_store.records import CheckpointRecord, FileRecord, JobRecord, database_now

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
"""What of a checkpoint PEFT can load; the rest is for going on with the training."""
DAMAGED = "it is damaged"

_STARTING = aliased(JobRecord)
_NEEDED = (
    select(1)
    .where(_STARTING.start_checkpoint_id == CheckpointRecord.id, _STARTING.status.in_(ACTIVE))
    .correlate(CheckpointRecord)
    .exists()
)
"""Whether a job that is not finished starts from the checkpoint."""


class Checkpoints:
    """The checkpoints of jobs; at most one for each step of a job."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def append(
        self,
        lease: Lease,
        step: int,
        object_prefix: str,
        manifest: dict[str, dict[str, Any]],
        metrics: dict[str, float],
    ) -> CheckpointRecord:
        """Record a checkpoint whose files are all uploaded under `object_prefix`; its adapter can be downloaded.

        `manifest` maps each file's name to {"bytes", "sha256"}. A checkpoint of the same step that is there already
        becomes this one and keeps its id, by which jobs may start from it, and those of its downloads.
        Raises LeaseLostError.
        """
        guard(self.session, lease)
        of_step = (CheckpointRecord.job_id == lease.job_id, CheckpointRecord.step == step)
        earlier = self.session.scalars(select(CheckpointRecord).where(*of_step)).one_or_none()
        if earlier is not None:
            earlier.attempt, earlier.damaged = lease.attempt, False
            earlier.object_prefix, earlier.manifest, earlier.metrics = object_prefix, manifest, metrics
            self._point_downloads(earlier)
            self.session.flush()
            return earlier
        checkpoint = CheckpointRecord(
            id=ids.new_id("ftckpt_"),
            project_id=lease.project_id,
            job_id=lease.job_id,
            attempt=lease.attempt,
            step=step,
            object_prefix=object_prefix,
            manifest=manifest,
            metrics=metrics,
        )
        self.session.add(checkpoint)
        self.session.flush()
        self.session.add_all(_downloads(checkpoint))
        announce_checkpoint(self.session, lease.project_id, lease.job_id, checkpoint.id, step)
        self.session.flush()
        return checkpoint

    def newest(self, job_id: str) -> CheckpointRecord | None:
        """The job's last checkpoint that is not known to be damaged."""
        query = select(CheckpointRecord).where(CheckpointRecord.job_id == job_id, CheckpointRecord.damaged.is_(False))
        return self.session.scalars(query.order_by(CheckpointRecord.step.desc()).limit(1)).one_or_none()

    def mark_damaged(self, lease: Lease, checkpoint_id: str, reason: str = DAMAGED) -> CheckpointRecord | None:
        """Note that a checkpoint cannot be gone on from, and tell so once; give the next older one.

        Raises LeaseLostError.
        """
        attempt = guard(self.session, lease)
        named = (CheckpointRecord.id == checkpoint_id, CheckpointRecord.job_id == lease.job_id)
        step = self.session.execute(
            update(CheckpointRecord)
            .where(*named, CheckpointRecord.damaged.is_(False))
            .values(damaged=True)
            .returning(CheckpointRecord.step)
        ).scalar_one_or_none()
        older = self.newest(lease.job_id)
        attempt.start_step = attempt.last_step = older.step if older else 0
        if step is not None:
            place = f"step {older.step}" if older else "the beginning"
            told = f"The checkpoint of step {step} cannot be used: {reason}. Training starts from {place}."
            event = NewEvent(told, level="warn", data={"resumed_from_step": attempt.start_step})
            Events(self.session).add(lease.job_id, [event])
        return older

    def prune(
        self, lease: Lease, keep_last: int | None, keep_best: int | None, most: int = 1000
    ) -> list[CheckpointRecord]:
        """Drop all but the newest `keep_last` sound checkpoints and the `keep_best` of the lowest validation loss.

        Neither may be above `most`. Where one of the two is None, it counts as 1; where both are, `most` of the newest
        stay. Gives the dropped ones, so that the caller can delete their objects after the commit. Raises
        LeaseLostError.
        """
        guard(self.session, lease)
        if keep_last is None and keep_best is None:
            count = select(func.count()).where(CheckpointRecord.job_id == lease.job_id)
            if self.session.execute(count).scalar_one() <= most:
                return []
            keep_last = most
        query = select(CheckpointRecord).where(CheckpointRecord.job_id == lease.job_id, ~_NEEDED)
        found = list(self.session.scalars(query.order_by(CheckpointRecord.step.desc())))
        sound = [checkpoint for checkpoint in found if not checkpoint.damaged]
        validated = [checkpoint for checkpoint in sound if "full_valid_loss" in checkpoint.metrics]
        best = sorted(validated, key=lambda checkpoint: checkpoint.metrics["full_valid_loss"])
        kept = {each.id for each in [*sound[: min(keep_last or 1, most)], *best[: min(keep_best or 1, most)]]}
        return self._drop([each for each in found if each.id not in kept])

    def outdated(self, seconds: float, limit: int | None = None) -> list[CheckpointRecord]:
        """Checkpoints of jobs that ended more than `seconds` ago, except those that an unfinished job starts from."""
        query = (
            select(CheckpointRecord)
            .join(JobRecord, JobRecord.id == CheckpointRecord.job_id)
            .where(JobRecord.status.in_(TERMINAL), JobRecord.finished_at < database_now() - seconds, ~_NEEDED)
        )
        return list(self.session.scalars(query.limit(limit)))

    def drop_outdated(self, seconds: float, limit: int) -> list[CheckpointRecord]:
        """Delete the rows of up to `limit` outdated checkpoints; their objects are for the caller, after the commit."""
        return self._drop(self.outdated(seconds, limit))

    def _point_downloads(self, checkpoint: CheckpointRecord) -> None:
        """Let the rows of files to download tell of the objects that the checkpoint has now."""
        for file in self.files_of([checkpoint.id])[checkpoint.id]:
            facts = checkpoint.manifest[file.filename]
            file.bytes, file.sha256 = facts["bytes"], facts["sha256"]
            file.object_key = f"{checkpoint.object_prefix}/{file.filename}"

    def _drop(self, checkpoints: list[CheckpointRecord]) -> list[CheckpointRecord]:
        """Delete those that no job has begun to start from since they were chosen, or is about to; gives them."""
        chosen = CheckpointRecord.id.in_([checkpoint.id for checkpoint in checkpoints])
        held = self.session.scalars(select(CheckpointRecord.id).where(chosen).with_for_update(skip_locked=True)).all()
        free = self.session.scalars(select(CheckpointRecord).where(CheckpointRecord.id.in_(held), ~_NEEDED)).all()
        for checkpoint in free:
            self.session.delete(checkpoint)
        self.session.flush()
        return list(free)

    def files_of(self, checkpoint_ids: Collection[str]) -> dict[str, list[FileRecord]]:
        """The files to download of each of these checkpoints, the weights first."""
        query = (
            select(FileRecord).where(FileRecord.checkpoint_id.in_(checkpoint_ids)).order_by(FileRecord.filename.desc())
        )
        found: dict[str, list[FileRecord]] = {checkpoint_id: [] for checkpoint_id in checkpoint_ids}
        for file in self.session.scalars(query):
            found[file.checkpoint_id or ""].append(file)
        return found

    def list_page(
        self, project_id: str, job_id: str, *, after: str | None = None, limit: int = 10
    ) -> Page[CheckpointRecord]:
        """The job's checkpoints, newest first. A job of another project has none. Raises CursorNotFoundError."""
        query = select(CheckpointRecord).where(
            CheckpointRecord.job_id == job_id,
            CheckpointRecord.project_id == project_id,
            CheckpointRecord.damaged.is_(False),
        )
        return read_page(
            self.session,
            "checkpoint",
            query,
            (CheckpointRecord.step,),
            after=after,
            named=CheckpointRecord.id,
            limit=limit,
            order="desc",
        )


def named_for(project_id: str, jobs: Iterable[tuple[str, str]]) -> list[str]:
    """Ids of jobs as a project may be told them, whom those of others are nameless. `jobs` are of (id, project)."""
    return list(dict.fromkeys(job_id if owner == project_id else "a job of another project" for job_id, owner in jobs))


def _downloads(checkpoint: CheckpointRecord) -> Iterator[FileRecord]:
    """The rows of the files that can be downloaded of a checkpoint: its own objects, not copies."""
    for name in ADAPTER_FILES:
        facts = checkpoint.manifest.get(name)
        if facts is not None:
            yield FileRecord(
                id=ids.new_id("file-"),
                project_id=checkpoint.project_id,
                filename=name,
                purpose="fine-tune-results",
                bytes=facts["bytes"],
                sha256=facts["sha256"],
                object_key=f"{checkpoint.object_prefix}/{name}",
                checkpoint_id=checkpoint.id,
            )
