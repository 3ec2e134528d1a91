"""The queue of trials: bounded, its projects take turns, each taken by one worker, gone when its time is over."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from sgg_core.spec import Auto
from sgg_store import ids
from sgg_store.errors import TrialQueueFullError
from sgg_store.projects import take_turns
from sgg_store.records import TrialRecord, TrialState, database_now

SILENT_SECONDS = 15.0
"""A worker that does not say for so long that it is at a trial is taken for dead."""
GRACE_SECONDS = 2.0
"""For so long after its time a trial that a worker is at may still be answered, with what is written by then."""
_OPEN = (TrialState.WAITING, TrialState.RUNNING)


class StoredFile(BaseModel):
    """A file in the object store."""

    key: str
    sha256: str


class StoredAdapter(BaseModel):
    """An adapter in the object store, by its files' names: one bundle, or the files of a checkpoint.

    What a checkpoint's files do not tell stands beside them: how its task is described, and how long texts may be.
    """

    files: dict[str, StoredFile]
    description: str | None = None
    max_tokens: int | Auto | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTrial:
    """A question to an adapter, or to the bare base model. `files` are what it is about, by their roles."""

    project_id: str
    base_model: str
    adapter: StoredAdapter | None = None
    request: dict[str, Any]
    streamed: bool = False
    files: dict[str, StoredFile] | None = None


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """How many trials may be under way, of all projects and of one, and how many seconds each may take."""

    total: int
    of_project: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """A trial as it is now. `lost`: nobody will answer it, since its worker fell silent or its time is over."""

    state: TrialState
    answer: dict[str, Any] | None
    lost: Literal["silent", "expired"] | None


class Trials:
    """Trials of all projects. Whoever has a trial's id made it: ids are not shown to callers."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def ask(self, new: NewTrial, limits: TrialLimits) -> str:
        """Queue a question and give its id; those whose time is over leave. Raises TrialQueueFullError.

        On Postgres the limit of all projects can be exceeded by as many as ask at the same moment.
        """
        take_turns(self.session, new.project_id)
        self.drop_expired()
        under_way = select(func.count()).where(TrialRecord.state.in_(_OPEN), TrialRecord.expires_at > database_now())
        if self.session.execute(under_way).scalar_one() >= limits.total:
            raise TrialQueueFullError(limits.total, "all projects")
        own = under_way.where(TrialRecord.project_id == new.project_id)
        if self.session.execute(own).scalar_one() >= limits.of_project:
            raise TrialQueueFullError(limits.of_project, "this project")
        trial = TrialRecord(
            id=ids.new_id("trial-"),
            project_id=new.project_id,
            base_model=new.base_model,
            adapter=new.adapter.model_dump() if new.adapter else None,
            files={role: stored.model_dump() for role, stored in new.files.items()} if new.files else None,
            request=new.request,
            streamed=new.streamed,
            expires_at=database_now() + limits.seconds,
        )
        self.session.add(trial)
        self.session.flush()
        return trial.id

    def progress(self, trial_ids: Collection[str]) -> dict[str, Progress]:
        """How far these trials are. Those that are not there any more are left out."""
        row = TrialRecord
        columns = (row.id, row.state, row.answer, row.heard_at, row.expires_at, database_now())
        rows = self.session.execute(select(*columns).where(row.id.in_(trial_ids)))
        found = {}
        for trial_id, state, answer, heard_at, expires_at, now in rows:
            lost: Literal["silent", "expired"] | None = None
            late = now - expires_at
            if state is TrialState.RUNNING and now > heard_at + SILENT_SECONDS:
                lost = "silent"
            elif (state is TrialState.WAITING and late > 0) or (state is TrialState.RUNNING and late > GRACE_SECONDS):
                lost = "expired"
            found[trial_id] = Progress(state, answer, lost)
        return found

    def drop_expired(self) -> None:
        """Delete trials whose time is over and that nobody has forgotten, with their texts."""
        over = delete(TrialRecord).where(TrialRecord.expires_at < database_now() - SILENT_SECONDS)
        self.session.execute(over.execution_options(synchronize_session=False))

    def forget(self, trial_id: str) -> None:
        """Delete a trial, answered or not. A worker that is at it stops when it says something next."""
        self.session.execute(delete(TrialRecord).where(TrialRecord.id == trial_id))

    def next_waiting(self, loaded: Collection[str], left_to_others_seconds: float) -> str | None:
        """Id of the trial whose turn it is: at once if it is on a base model that is `loaded`, others after a while.

        So, of several workers, the one answers that need not load anything. It is the turn of the project whose oldest
        trial has waited longest since it was asked, or since another one of the project was taken.
        """
        patient = TrialRecord.created_at < database_now() - left_to_others_seconds
        query = select(TrialRecord.id).where(
            TrialRecord.state == TrialState.WAITING,
            TrialRecord.expires_at > database_now(),
            or_(TrialRecord.base_model.in_(loaded), patient),
        )
        in_turn = (TrialRecord.heard_at, TrialRecord.created_at, TrialRecord.id)
        return self.session.scalars(query.order_by(*in_turn).limit(1)).first()

    def claim(self, trial_id: str) -> TrialRecord | None:
        """Take a waiting trial; None if another worker was faster, or its caller has gone. The record is detached.

        The other trials of its project go to the end of the queue, so that those of other projects come first.
        """
        query = (
            update(TrialRecord)
            .where(TrialRecord.id == trial_id, TrialRecord.state == TrialState.WAITING)
            .values(state=TrialState.RUNNING, token=secrets.token_hex(8), heard_at=database_now())
            .returning(TrialRecord)
        )
        trial = self.session.scalars(query, execution_options={"synchronize_session": False}).one_or_none()
        if trial is not None:
            self._end_turn(trial)
        return trial

    def _end_turn(self, taken: TrialRecord) -> None:
        others = select(TrialRecord.id).where(
            TrialRecord.project_id == taken.project_id, TrialRecord.state == TrialState.WAITING
        )
        self.session.execute(
            update(TrialRecord)  # those that other workers are taking are left out: each would wait for the other
            .where(TrialRecord.id.in_(others.with_for_update(skip_locked=True)))
            .values(heard_at=taken.heard_at)  # one time for all, so that they stay in their order
            .execution_options(synchronize_session=False)
        )

    def tell(self, trial: TrialRecord, state: TrialState, answer: BaseModel | None) -> bool:
        """Say that the worker is at a trial, or how it ended. False: nobody waits for it any more, so stop.

        Without an answer the one before stays.
        """
        values: dict[str, Any] = {"state": state, "heard_at": database_now()}
        if answer is not None:
            values["answer"] = answer.model_dump(mode="json")
        told = self.session.execute(
            update(TrialRecord)
            .where(
                TrialRecord.id == trial.id,
                TrialRecord.token == trial.token,
                TrialRecord.state == TrialState.RUNNING,
                TrialRecord.expires_at > database_now() - GRACE_SECONDS,
            )
            .values(**values)
            .returning(TrialRecord.id)
            .execution_options(synchronize_session=False)
        )
        return told.one_or_none() is not None
