"""The thread that answers trials outlives whatever goes wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from sgg_core.tiny import save_tiny_base
from sgg_core.trials import CompletionTrial, Sampling, TrialFailure
from sgg_store.keys import DEFAULT_PROJECT_ID
from sgg_store.records import TrialRecord, TrialState, database_now
from sgg_store.trials import NewTrial, TrialLimits, Trials
from worker.testing import Workbench, eventually
from worker.trial_runner import TrialRunner


def test_a_predictor_that_cannot_be_started_and_a_broken_trial_are_told_and_end_nothing(tmp_path: Path) -> None:
    bench = Workbench(tmp_path / "data", save_tiny_base(tmp_path / "tiny"))

    def failure(request: dict[str, Any]) -> TrialFailure:
        """Of a trial, which is told at once and not when it has fallen silent."""
        new = NewTrial(project_id=DEFAULT_PROJECT_ID, base_model="tiny-causal", request=request)
        with bench.database.begin() as session:
            trial_id = Trials(session).ask(new, TrialLimits(total=9, of_project=9, seconds=60))

        def ending() -> dict[str, Any] | None:
            with bench.database.read() as session:
                progress = Trials(session).progress([trial_id])[trial_id]
                return progress.answer if progress.state is TrialState.FAILED else None

        return TrialFailure.model_validate(eventually(ending, seconds=20))

    runner = TrialRunner(bench.settings, bench.database, bench.objects, ["/there/is/no/such/program"])
    runner.start()
    try:
        broken = failure({})
        unanswered = failure(CompletionTrial(prompt="x", sampling=Sampling(max_tokens=1)).model_dump(mode="json"))
    finally:
        assert runner.alive
        runner.stop()
        bench.close()
    assert broken == unanswered
    assert (broken.code, broken.users_fault) == ("trial_failed", False)


def test_a_trial_that_waited_for_most_of_its_time_is_neither_cut_nor_blamed_for_its_length(tmp_path: Path) -> None:
    bench = Workbench(tmp_path / "data", save_tiny_base(tmp_path / "tiny"))
    request = CompletionTrial(prompt="x", sampling=Sampling(max_tokens=512)).model_dump(mode="json")

    def ending(waited: float, left: float) -> tuple[TrialState, dict[str, Any] | None]:
        new = NewTrial(project_id=DEFAULT_PROJECT_ID, base_model="tiny-causal", request=request)
        with bench.database.begin() as session:
            trial_id = Trials(session).ask(new, TrialLimits(total=9, of_project=9, seconds=left))
            session.get_one(TrialRecord, trial_id).created_at = database_now() - waited

        def ended() -> tuple[TrialState, dict[str, Any] | None] | None:
            with bench.database.read() as session:
                found = Trials(session).progress([trial_id])[trial_id]
                return (found.state, found.answer) if found.state in (TrialState.FAILED, TrialState.ANSWERED) else None

        return eventually(ended)

    runner = TrialRunner(bench.settings, bench.database, bench.objects)
    runner.start()
    try:
        state, answer = ending(waited=0.0, left=120.0)  # which loads the base model
        assert state is TrialState.ANSWERED and answer is not None and answer["text"]
        assert runner.predictor_pid is not None
        predictor = psutil.Process(runner.predictor_pid)
        predictor.suspend()
        state, answer = ending(waited=10.0, left=1.0)
        predictor.resume()
        failure = TrialFailure.model_validate(answer)
        assert state is TrialState.FAILED and (failure.code, failure.users_fault) == ("trial_failed", False)
        assert failure.message.endswith("or for the base model to load. Try again in a moment.")
    finally:
        runner.stop()
        bench.close()
