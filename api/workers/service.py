"""Reading the register of workers."""

from __future__ import annotations

from api.dependencies import Services
from api.schemas import ListOut
from api.workers.schemas import WorkerOut
from sgg_store.workers import Workers, WorkerView


def list_all(services: Services) -> ListOut[WorkerOut]:
    """All workers on one page: there are as many as machines."""
    with services.database.read() as session:
        views = Workers(session).all()
    return ListOut[WorkerOut](data=[_out(view) for view in views], has_more=False)


def _out(view: WorkerView) -> WorkerOut:
    return WorkerOut(
        id=view.presence.owner,
        host=view.presence.host,
        pid=view.presence.pid,
        version=view.presence.version,
        status=view.state,
        job_ids=list(view.job_ids),
        started_at=int(view.started_at),
        seen_at=int(view.seen_at),
    )
