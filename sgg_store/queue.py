"""The doorbell: Celery's wiring. The database is the queue; a message says only that a job waits in it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from queue import Empty
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from sgg_store.errors import BrokerUnavailableError
from sgg_store.instruments import DOORBELLS
from sgg_store.settings import StoreSettings

TASK_RUN_JOB = "sgg.run_job"
QUEUE_JOBS = "sgg.jobs"
NOTHING_CAME: tuple[type[Exception], ...] = (Empty,)
RING_SECONDS = 2.0
"""How long a broker that hangs may keep a request that rings."""


def make_celery(settings: StoreSettings) -> Celery:
    """A Celery application on the settings' broker: early acknowledgement, no results, no prefetching."""
    in_memory = settings.broker_is_embedded
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
        broker_transport_options={"polling_interval": 0.02}  # seconds; a job waits for half of it
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


def round_trip(app: Celery) -> float:
    """Ring on a queue of our own, take the message back, and remove the queue; gives the seconds that it took.

    Raises BrokerUnavailableError if the message does not come back.
    """
    began = time.monotonic()
    with app.connection_for_write() as connection:
        try:
            with connection.SimpleBuffer(f"{QUEUE_JOBS}.check.{secrets.token_hex(8)}") as private:
                private.put("ring")
                private.get(timeout=5.0)
                private.queue.delete()
        except (*connection.connection_errors, *connection.channel_errors, *NOTHING_CAME) as error:
            raise BrokerUnavailableError(
                f"A message did not come back from the broker: {error}", "Look at its log and its memory limit."
            ) from error
    return time.monotonic() - began


def doorbell(settings: StoreSettings) -> Callable[[str], None]:
    """A function that rings for a job at the settings' broker; it raises BrokerUnavailableError, soon if it hangs."""
    app = make_celery(settings)
    app.conf.broker_transport_options |= {"socket_timeout": RING_SECONDS}  # a caller waits for the bell
    return lambda job_id: ring(app, job_id)


def ping(app: Celery) -> None:
    """Make sure that the broker answers. Raises BrokerUnavailableError."""
    with app.connection_for_write() as connection:
        try:
            connection.connect()
            connection.channel()  # opening one is a round trip
        except (*connection.connection_errors, *connection.channel_errors) as error:
            raise BrokerUnavailableError(
                f"The broker does not answer: {error}", "Start it, and check SGG_BROKER_URL."
            ) from error


def unanswered(app: Celery) -> int:
    """How many doorbells nobody has taken yet. Raises BrokerUnavailableError."""
    pool: Any = app.pool  # celery's stubs take it for one of producers
    with pool.acquire(block=True) as connection:
        try:
            declared: Any = app.amqp.queues[QUEUE_JOBS].bind(connection.default_channel).queue_declare()
        except (OperationalError, *connection.connection_errors, *connection.channel_errors) as error:
            raise _away(error) from error
    return int(declared.message_count)


def ring(app: Celery, job_id: str) -> None:
    """Ring the doorbell for a job, once and without retries.

    Raises BrokerUnavailableError if nobody took the message; the dispatcher rings again later.
    """
    try:
        app.send_task(TASK_RUN_JOB, args=[job_id], queue=QUEUE_JOBS, ignore_result=True, retry=False)
        DOORBELLS.labels("rung").inc()
    except (OperationalError, OSError) as error:
        DOORBELLS.labels("failed").inc()
        raise _away(error) from error


def _away(error: Exception) -> BrokerUnavailableError:
    remedy = "Check SGG_BROKER_URL; the job is safe and will be announced again."
    return BrokerUnavailableError(f"The broker does not answer: {error}", remedy)
