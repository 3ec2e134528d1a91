"""The register of workers: who is there, idle ones too. It is for people; who may run a job, leases alone decide."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import and_, delete, func, select, update
from sqlalchemy.orm import Session

from sgg_store.job_state import AttemptState
from sgg_store.records import AttemptRecord, WorkerRecord, database_now

BEAT_SECONDS = 10.0
"""How often a worker says that it is there."""
LOST_SECONDS = 45.0
"""A worker that was not seen for so long is lost."""
FORGOTTEN_SECONDS = 3600.0
"""A lost worker is told of for so long."""

_LOST = WorkerRecord.seen_at <= database_now() - LOST_SECONDS
_FORGOTTEN = WorkerRecord.seen_at <= database_now() - FORGOTTEN_SECONDS
_PRESENT = and_(~_LOST, WorkerRecord.draining.is_(False))

WorkerState = Literal["idle", "busy", "draining", "lost"]


@dataclass(frozen=True, slots=True)
class Presence:
    """What a worker says of itself. `owner` is its name in attempts."""

    owner: str
    host: str
    pid: int
    version: str
    answers_trials: bool = True


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker as the register and the running attempts tell it. Times are Unix seconds."""

    presence: Presence
    state: WorkerState
    job_ids: tuple[str, ...]  # of the jobs that it runs, in the order of their ids
    started_at: float
    seen_at: float


class Workers:
    """The register."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def enter(self, presence: Presence) -> None:
        """Write down a worker that starts, in the place of an earlier one of its name; forget the long lost."""
        self._delete(WorkerRecord.owner == presence.owner)
        self._delete(_FORGOTTEN)
        self.session.add(
            WorkerRecord(
                owner=presence.owner,
                host=presence.host,
                pid=presence.pid,
                version=presence.version,
                draining=False,
                answers_trials=presence.answers_trials,
            )
        )

    def beat(self, presence: Presence, *, draining: bool) -> None:
        """Note that a worker is still there; one that was forgotten meanwhile is written down again."""
        seen = (
            update(WorkerRecord)
            .where(WorkerRecord.owner == presence.owner)
            .values(
                seen_at=database_now(),
                draining=draining,
                answers_trials=presence.answers_trials,
            )
            .returning(WorkerRecord.owner)
            .execution_options(synchronize_session=False)
        )
        if self.session.execute(seen).one_or_none() is None:
            self.enter(presence)

    def leave(self, owner: str) -> None:
        """Take a worker out that ended in order."""
        self._delete(WorkerRecord.owner == owner)

    def present(self) -> int:
        """How many workers take jobs, now or when they are done with what they have."""
        return self.session.execute(select(func.count()).select_from(WorkerRecord).where(_PRESENT)).scalar_one()

    def answer_trials(self) -> bool:
        """Whether one that is up answers trials; one that takes no more jobs does until it ends."""
        query = select(func.count()).select_from(WorkerRecord).where(~_LOST, WorkerRecord.answers_trials)
        return self.session.execute(query).scalar_one() > 0

    def all(self) -> list[WorkerView]:
        """All workers but the forgotten, those that started first before the others."""
        query = (
            select(WorkerRecord, _LOST)
            .where(~_FORGOTTEN)  # their rows stay until a worker starts
            .order_by(WorkerRecord.started_at, WorkerRecord.owner)
        )
        running = self._running()
        return [_view(record, tuple(running[record.owner]), lost) for record, lost in self.session.execute(query)]

    def _running(self) -> dict[str, list[str]]:
        query = (
            select(AttemptRecord.owner, AttemptRecord.job_id)
            .where(AttemptRecord.state == AttemptState.RUNNING)
            .order_by(AttemptRecord.job_id)
        )
        found: dict[str, list[str]] = defaultdict(list)
        for owner, job_id in self.session.execute(query):
            found[owner].append(job_id)
        return found

    def _delete(self, which: object) -> None:
        query = delete(WorkerRecord).where(which)  # type: ignore[arg-type]
        self.session.execute(query.execution_options(synchronize_session=False))


def _view(record: WorkerRecord, job_ids: tuple[str, ...], lost: bool) -> WorkerView:
    state: WorkerState = "lost" if lost else "draining" if record.draining else "busy" if job_ids else "idle"
    presence = Presence(record.owner, record.host, record.pid, record.version, record.answers_trials)
    return WorkerView(presence, state, job_ids, record.started_at, record.seen_at)
