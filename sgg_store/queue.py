"""The doorbell: Celery's wiring. The database is the queue; a message says only that a job waits in it."""

from __future__ import annotations

from celery import Celery
from kombu.exceptions import OperationalError

from sgg_store.errors import BrokerUnavailableError
from sgg_store.settings import StoreSettings

TASK_RUN_JOB = "sgg.run_job"
QUEUE_JOBS = "sgg.jobs"


def make_celery(settings: StoreSettings) -> Celery:
    """A Celery application on the settings' broker: early acknowledgement, no results, no prefetching."""
    in_memory = settings.broker_url.startswith("memory:")
    broker = "memory://localhost/" if in_memory else settings.broker_url  # kombu warns of an address without a host
    app = Celery("sgg", broker=broker, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE_JOBS,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        worker_disable_prefetch=not in_memory,  # it works on Redis alone, and warns elsewhere
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options={"polling_interval": 0.05}
        if in_memory
        else {
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "max_retries": 0,  # of a ring; a worker's own connection tries for ever
        },
    )
    return app


def ring(app: Celery, job_id: str) -> None:
    """Ring the doorbell for a job, once and without retries.

    Raises BrokerUnavailableError if nobody took the message; the dispatcher rings again later.
    """
    try:
        app.send_task(TASK_RUN_JOB, args=[job_id], queue=QUEUE_JOBS, ignore_result=True, retry=False)
    except (OperationalError, OSError) as error:
        raise BrokerUnavailableError(
            f"The broker does not answer: {error}", "Check SGG_BROKER_URL; the job is safe and will be announced again."
        ) from error
