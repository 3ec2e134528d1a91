"""Sends what webhooks are to be told, in threads beside the requests. Any number of processes may do so at once."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from api.settings import ApiSettings
from api.webhooks.guard import ERRORS, AddressRule, ForbiddenAddressError, post
from api.webhooks.signing import Signer
from sgg_store.database import Database
from sgg_store.errors import StoreError
from sgg_store.logs import get_logger
from sgg_store.records import WebhookDeliveryRecord
from sgg_store.webhooks import Due, Outcome, Webhooks

_log = get_logger(__name__)

SLOTS = 8
SLOTS_OF_PROJECT = 2


class WebhookSender:
    """Looks for due deliveries, and sends up to SLOTS at once, one at a time to each endpoint.

    Projects take turns and never hold all slots, so that one with slow receivers does not keep the others waiting.
    """

    def __init__(self, settings: ApiSettings, database: Database, signer: Signer) -> None:
        self._settings = settings
        self._database = database
        self._signer = signer
        self._rule = AddressRule(settings.webhook_private_addresses)
        self._over = threading.Event()
        self._look = threading.Event()
        self._pool = ThreadPoolExecutor(SLOTS, "webhook")
        self._busy: dict[str, str] = {}  # the endpoints that are being sent to, and whose they are
        self._turns: dict[str, float] = {}  # when each project had its last one
        self._thread = threading.Thread(target=self._loop, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End once the requests that are under way have ended; what is not sent yet is sent after the next start."""
        self._over.set()
        self._look.set()
        self._thread.join()
        self._pool.shutdown()

    def _loop(self) -> None:
        while not self._over.is_set():
            try:
                self._send_due()
            except StoreError as error:
                _log.warning("webhooks wait", error=str(error))
            except Exception:
                _log.exception("a look for due deliveries met a defect")
            self._look.wait(self._settings.webhook_poll_seconds)
            self._look.clear()

    def _send_due(self) -> None:
        """Hand the pool one delivery of each project that may send more, as far as there are slots."""
        busy = dict(self._busy)
        if len(busy) >= SLOTS:
            return
        with self._database.read() as session:
            waiting = Webhooks(session).waiting_projects(set(busy))
        sending = Counter(busy.values())
        able = [project_id for project_id in waiting if sending[project_id] < SLOTS_OF_PROJECT]
        longest_ago_first = sorted(able, key=lambda project_id: self._turns.get(project_id, 0.0))
        for project_id in longest_ago_first[: SLOTS - len(busy)]:
            with self._database.begin() as session:
                due = Webhooks(session).claim_due(project_id, set(busy), 6 * self._settings.webhook_timeout_seconds)
            if due is None:  # another process was faster
                continue
            self._turns[project_id] = time.monotonic()
            self._busy[due.endpoint.id] = project_id
            self._pool.submit(self._deliver, due)
            self._look.set()  # it may have more

    def _deliver(self, due: Due) -> None:
        try:
            outcome = self._attempt(due)
            with self._database.begin() as session:
                Webhooks(session).record(due, outcome)
        except StoreError as error:  # the delivery is tried again when its hold is over
            _log.warning("the outcome of a delivery is not recorded", delivery=due.delivery.id, error=str(error))
        except Exception:
            _log.exception("a delivery met a defect", delivery=due.delivery.id)
        finally:
            del self._busy[due.endpoint.id]
            self._look.set()

    def _attempt(self, due: Due) -> Outcome:
        body = payload(due.delivery)
        headers = self._signer.headers(due.endpoint, due.delivery.event_id, body, time.time())
        headers |= {"content-type": "application/json", "user-agent": "sgg-webhooks"}
        began = time.monotonic()
        status, error = None, None
        try:
            status = post(due.endpoint.url, body, headers, self._rule, self._settings.webhook_timeout_seconds)
        except ForbiddenAddressError as refusal:
            error = str(refusal)
        except ERRORS as failure:
            error = f"no answer ({type(failure).__name__})"  # its text would tell what lies behind a name
        return Outcome(status, error, time.monotonic() - began)


def payload(delivery: WebhookDeliveryRecord) -> bytes:
    """The body of a delivery: the same bytes in every attempt."""
    event = {
        "id": delivery.event_id,
        "object": "event",
        "created_at": int(delivery.created_at),
        "type": delivery.type,
        "data": delivery.data,
    }
    return json.dumps(event).encode()
