"""Answers trials beside the training: takes the one that waits longest, lets the predictor answer, says so."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from structlog.contextvars import bound_contextvars

from sgg_core.catalogue import Catalogue
from sgg_core.errors import CheckpointError, SggError
from sgg_core.trials import TrialAnswer, TrialFailure, WrittenText, trial_adapter
from sgg_store.database import Database
from sgg_store.errors import ObjectNotFoundError, StoreError
from sgg_store.logs import get_logger
from sgg_store.objects import ObjectStore
from sgg_store.records import TrialRecord, TrialState
from sgg_store.trials import StoredAdapter, StoredFile, Trials
from worker.adapter_cache import AdapterCache
from worker.errors import TrainerDiedError
from worker.fetching import fetched_whole
from worker.instruments import TRIAL_SECONDS
from worker.predictor import Predictor
from worker.scratch import Scratch
from worker.settings import WorkerSettings
from worker.trial_messages import Refused

_log = get_logger(__name__)

BUSY_POLL_SECONDS = 0.02
IDLE_POLL_SECONDS = 0.25
BUSY_SECONDS = 60.0
"""Who asks once, asks again soon: for so long the worker looks often."""
SIGN_OF_LIFE_SECONDS = 1.0
STREAM_SECONDS = 0.05
DEFECT_SECONDS = 1.0
"""For so long it looks for no trial after it met a defect, which the next one may meet again."""
LEFT_TO_OTHERS_SECONDS = 0.5
"""For so long a trial is left to workers that have its base model loaded."""
TRIAL_FAILED, OVERDUE = "trial_failed", "trial_overdue"
WRITTEN = ("chat", "completion")
TOO_LATE = "Too much of the trial's time went into waiting for its turn, or for the base model to load."


class TrialRunner:
    """A thread that answers trials one after the other, with a predictor that is there while trials come."""

    def __init__(
        self, settings: WorkerSettings, database: Database, objects: ObjectStore, command: Sequence[str] | None = None
    ) -> None:
        self._settings = settings
        self._database = database
        self._scratch = Scratch(settings.scratch_dir)
        self._objects = objects
        self._adapters = AdapterCache(self._scratch.directory("adapters"), objects)
        self._data = self._scratch.directory("trial-data")
        self._predictor = Predictor(settings, command)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="trials", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether it has begun and not ended."""
        return self._thread.is_alive()

    @property
    def predictor_pid(self) -> int | None:
        """Process id of the predictor, if there is one now."""
        return self._predictor.pid

    def start(self) -> None:
        """Begin to look for trials."""
        self._thread.start()

    def stop(self) -> None:
        """Give up the trial that is under way, and end the predictor."""
        self._over.set()
        self._thread.join()
        self._scratch.close()

    def _loop(self) -> None:
        last = float("-inf")
        while not self._over.is_set():
            try:
                trial = self._take()
                if trial is not None:
                    self._serve(trial)
                    last = time.monotonic()
                    continue
            except StoreError as error:
                _log.warning("trials wait", error=str(error))
            except Exception:
                _log.exception("trials wait after a defect")
                self._over.wait(DEFECT_SECONDS)
            idle = time.monotonic() - last
            if idle > self._settings.trial_idle_seconds:
                self._predictor.close()
            self._over.wait(BUSY_POLL_SECONDS if idle < BUSY_SECONDS else IDLE_POLL_SECONDS)
        self._predictor.close()

    def _take(self) -> TrialRecord | None:
        with self._database.read() as session:  # mostly there is nothing, which is no reason to take the write lock
            waiting = Trials(session).next_waiting(self._predictor.loaded, LEFT_TO_OTHERS_SECONDS)
        if waiting is None:
            return None
        with self._database.begin() as session:
            return Trials(session).claim(waiting)

    def _serve(self, trial: TrialRecord) -> None:
        began = time.monotonic()
        with bound_contextvars(trial_id=trial.id):
            ending = self._ending(trial, began)
            if ending is not None:
                state = TrialState.FAILED if isinstance(ending, TrialFailure) else TrialState.ANSWERED
                self._tell(trial, state, ending)
            outcome = "abandoned" if ending is None else str(state)
            seconds = time.monotonic() - began
            TRIAL_SECONDS.labels(trial.request["type"], outcome).observe(seconds)
            _log.info("a trial ended", outcome=outcome, base_model=trial.base_model, seconds=round(seconds, 3))

    def _ending(self, trial: TrialRecord, began: float) -> TrialAnswer | TrialFailure | None:
        """The answer, or why there is none; None if nobody waits for it any more."""
        try:
            entry = Catalogue.load(self._settings.catalogue_dir).get(trial.base_model)
            adapter = None
            if trial.adapter is not None:
                adapter = self._adapters.fetch(StoredAdapter.model_validate(trial.adapter))
            data = self._fetch_data(trial)
            at_it_since = began if entry.name in self._predictor.loaded else None
            self._predictor.ask(entry, adapter, trial_adapter.validate_python(trial.request), data)
            return self._follow(trial, began, at_it_since)
        except TrainerDiedError as error:
            _log.error("the predictor died", error=str(error))
            cause = "There was not enough memory" if error.out_of_memory else "The process that answers died"
            return _failed(f"{cause}; another one is started for the next trial.")
        except ObjectNotFoundError:
            return TrialFailure(
                code=CheckpointError.code,
                message="The content of a file is lost. Upload or train it again, and tell the administrator.",
                users_fault=False,
            )
        except SggError as error:
            return TrialFailure(code=error.code, message=str(error), users_fault=False)
        except StoreError:
            raise
        except Exception:
            _log.exception("a trial met a defect of its worker")
            self._predictor.close()  # it may be in the middle of an answer that nobody will read
            return _failed("The worker could not answer the trial; its log says more.")

    def _fetch_data(self, trial: TrialRecord) -> Path | None:
        """The directory with the files that the trial is about, in place of those of the trial before."""
        shutil.rmtree(self._data, ignore_errors=True)
        if not trial.files:
            return None
        self._data.mkdir()
        for role, file in trial.files.items():
            stored = StoredFile.model_validate(file)
            if not fetched_whole(self._objects, stored.key, self._data / role, stored.sha256):
                raise CheckpointError(
                    "The bytes of a file have changed.", "Upload it again, and tell the administrator."
                )
        return self._data

    def _follow(self, trial: TrialRecord, began: float, at_it_since: float | None) -> TrialAnswer | TrialFailure | None:
        """`at_it_since` is None while the base model may still be loading."""
        deadline = began + trial.expires_at - trial.heard_at  # both are of the database's clock; the latter is `began`
        latest: TrialAnswer | None = None
        unsaid = False
        spoke_at = time.monotonic()
        try:
            while not self._over.is_set():
                message = self._predictor.receive(BUSY_POLL_SECONDS)
                if isinstance(message, Refused):
                    return message.failure
                if message is not None:
                    if message.over:
                        return message.answer
                    latest, unsaid = message.answer, True
                    at_it_since = at_it_since or time.monotonic()
                if time.monotonic() > deadline:
                    return self._break_off(trial, latest, 0.0 if at_it_since is None else deadline - at_it_since)
                streams = trial.streamed and unsaid
                if time.monotonic() - spoke_at >= (STREAM_SECONDS if streams else SIGN_OF_LIFE_SECONDS):
                    spoke_at, unsaid = time.monotonic(), False
                    if not self._tell(trial, TrialState.RUNNING, latest if trial.streamed else None):
                        self._predictor.stop()
                        return None
        except StoreError:
            self._predictor.stop()
            raise
        return _failed("The worker is stopping.")

    def _break_off(self, trial: TrialRecord, latest: TrialAnswer | None, seconds: float) -> TrialAnswer | TrialFailure:
        """End a trial at its deadline, of whose time the predictor had so many seconds."""
        whole = trial.expires_at - trial.created_at
        ending: TrialAnswer | TrialFailure
        if seconds < whole / 2:
            ending = TrialFailure(code=TRIAL_FAILED, message=f"{TOO_LATE} Try again in a moment.", users_fault=False)
        elif isinstance(latest, WrittenText) and latest.text:  # as if no more had been asked for
            ending = latest.model_copy(update={"finish_reason": "length"})
        else:
            less = "Ask for fewer tokens" if trial.request["type"] in WRITTEN else "Ask for less at once"
            message = f"The answer was not finished within {whole:.0f} seconds. {less}, or raise SGG_TRIAL_SECONDS."
            ending = TrialFailure(code=OVERDUE, message=message, users_fault=False)
        state = TrialState.FAILED if isinstance(ending, TrialFailure) else TrialState.ANSWERED
        self._tell(trial, state, ending)  # first, since the predictor may be long at its next token
        self._predictor.stop()
        return ending

    def _tell(self, trial: TrialRecord, state: TrialState, said: TrialAnswer | TrialFailure | None) -> bool:
        with self._database.begin() as session:
            return Trials(session).tell(trial, state, said)


def _failed(message: str) -> TrialFailure:
    return TrialFailure(code=TRIAL_FAILED, message=f"{message} Try again.", users_fault=False)
