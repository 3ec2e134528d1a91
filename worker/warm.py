"""Which base model a trainer loads before anyone asks for it."""

from __future__ import annotations

from sqlalchemy import select

from sgg_core.catalogue import BaseModelEntry, Catalogue
from sgg_core.errors import SggError
from sgg_store.database import Database
from sgg_store.logs import get_logger
from sgg_store.records import JobRecord
from worker.settings import WorkerSettings

_log = get_logger(__name__)


def base_model_to_warm(settings: WorkerSettings, database: Database) -> BaseModelEntry | None:
    """The entry that `warm_base_model` means; None for `none`, before the first job, and for a name that is gone."""
    name: str | None = settings.warm_base_model
    if name == "none":
        return None
    if name == "last":
        with database.read() as session:
            name = session.scalars(select(JobRecord.base_model).order_by(JobRecord.created_at.desc()).limit(1)).first()
    if not name:
        return None
    try:
        return Catalogue.load(settings.catalogue_dir).get(name)
    except SggError as error:
        _log.warning("no base model is loaded ahead of time", error=str(error))
        return None
