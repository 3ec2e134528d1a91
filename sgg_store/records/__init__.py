"""Tables, one file each. Importing this package registers all of them."""

from sgg_store.records.api_key import ApiKeyRecord
from sgg_store.records.attempt import AttemptRecord
from sgg_store.records.audit import AuditRecord
from sgg_store.records.base import Record, database_now
from sgg_store.records.browser_session import BrowserSessionRecord, SessionKind
from sgg_store.records.checkpoint import CheckpointPermissionRecord, CheckpointRecord
from sgg_store.records.chore import ChoreRecord
from sgg_store.records.event import EventRecord
from sgg_store.records.file import FileRecord
from sgg_store.records.installation import InstallationRecord
from sgg_store.records.job import JobMetadataRecord, JobRecord
from sgg_store.records.metric import MetricRecord
from sgg_store.records.project import ProjectRecord
from sgg_store.records.trial import TrialRecord, TrialState
from sgg_store.records.upload import UploadPartRecord, UploadRecord
from sgg_store.records.webhook import DeliveryState, WebhookDeliveryRecord, WebhookEndpointRecord
from sgg_store.records.worker import WorkerRecord

__all__ = [
    "ApiKeyRecord",
    "AttemptRecord",
    "AuditRecord",
    "BrowserSessionRecord",
    "CheckpointPermissionRecord",
    "CheckpointRecord",
    "ChoreRecord",
    "DeliveryState",
    "EventRecord",
    "FileRecord",
    "InstallationRecord",
    "JobMetadataRecord",
    "JobRecord",
    "MetricRecord",
    "ProjectRecord",
    "Record",
    "SessionKind",
    "TrialRecord",
    "TrialState",
    "UploadPartRecord",
    "UploadRecord",
    "WebhookDeliveryRecord",
    "WebhookEndpointRecord",
    "WorkerRecord",
    "database_now",
]
