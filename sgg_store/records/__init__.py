"""Tables, one file each. Importing this package registers all of them."""

from sgg_store.records.api_key import ApiKeyRecord
from sgg_store.records.attempt import AttemptRecord
from sgg_store.records.base import Record, database_now
from sgg_store.records.checkpoint import CheckpointRecord
from sgg_store.records.event import EventRecord
from sgg_store.records.file import FileRecord
from sgg_store.records.job import JobMetadataRecord, JobRecord
from sgg_store.records.metric import MetricRecord
from sgg_store.records.project import ProjectRecord

__all__ = [
    "ApiKeyRecord",
    "AttemptRecord",
    "CheckpointRecord",
    "EventRecord",
    "FileRecord",
    "JobMetadataRecord",
    "JobRecord",
    "MetricRecord",
    "ProjectRecord",
    "Record",
    "database_now",
]
