"""The doorbell: what a message says, and what happens when nobody takes it."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest

from sgg_store.errors import BrokerUnavailableError
from sgg_store.queue import QUEUE_JOBS, TASK_RUN_JOB, make_celery, ring, unanswered
from sgg_store.settings import StoreSettings


@pytest.mark.usefixtures("no_doorbells")
def test_a_ring_is_one_message_with_a_job_id_and_nothing_else() -> None:
    app = make_celery(StoreSettings(broker_url="memory://"))
    job_id = f"ftjob-{uuid4().hex}"
    assert unanswered(app) == 0
    ring(app, job_id)
    assert unanswered(app) == 1
    with app.connection_for_read() as connection, connection.SimpleQueue(QUEUE_JOBS) as queue:
        message = queue.get(timeout=2)
        assert message.headers["task"] == TASK_RUN_JOB
        assert message.payload[:2] == [[job_id], {}]
        message.ack()
        with pytest.raises(queue.Empty):
            queue.get(block=False)
    app.close()


@pytest.mark.timeout(20)
def test_a_broker_out_of_reach_is_named_quickly() -> None:
    app = make_celery(StoreSettings(broker_url="redis://127.0.0.1:1/0"))
    started = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match="announced again"):
        ring(app, "ftjob-1")
    with pytest.raises(BrokerUnavailableError, match="announced again"):
        unanswered(app)
    assert time.monotonic() - started < 2.0
    app.close()


def test_the_worker_takes_one_message_at_a_time_and_keeps_no_results() -> None:
    conf = make_celery(StoreSettings(broker_url="redis://127.0.0.1:1/0")).conf
    assert conf.worker_disable_prefetch
    assert conf.task_ignore_result
    assert not conf.task_acks_late
    assert conf.broker_connection_max_retries is None
