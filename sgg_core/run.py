"""One training run: the loop, and what becomes of its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from sgg_core.adapter import Adapted, write_adapter, write_config
from sgg_core.adapter_file import AdapterMetadata
from sgg_core.backbone import LoadedBase
from sgg_core.checkpoint import Progress, RunState, load_checkpoint, save_checkpoint
from sgg_core.errors import TrainingDivergedError
from sgg_core.evaluation import evaluate, probes
from sgg_core.figures import Evaluation
from sgg_core.forgetting import Retention, retained
from sgg_core.identity import RunIdentity
from sgg_core.manifest import StartedFrom
from sgg_core.reporting import (
    AnyMessage,
    CheckpointSaved,
    Control,
    Finished,
    Notice,
    Reporter,
    Stopped,
)
from sgg_core.run_files import RunFiles
from sgg_core.run_messages import evaluation_metrics, started, step_metrics
from sgg_core.run_setup import set_up
from sgg_core.spec import TrainingSpec
from sgg_core.start import StartingPoint


class Run:
    """What `train` makes for each seed; `go` runs it. `adapted` is the base model with a fresh adapter."""

    def __init__(
        self,
        spec: TrainingSpec,
        base: LoadedBase,
        adapted: Any,
        files: RunFiles,
        start: StartingPoint | None,
        reporter: Reporter,
    ) -> None:
        self.spec, self.base, self.adapted = spec, base, adapted
        self.files, self.start, self.reporter = files, start, reporter
        self.setup = set_up(spec, base, adapted, files, start, reporter)
        progress = Progress(kinship=self.setup.objective.kinship)
        self.state = RunState(self.setup.plan, progress, self.setup.trained.now())
        self.figures: Evaluation | None = None
        self.figures_step: int | None = None
        self.reach: Callable[[int], Control] = self._ask_before
        """Asked whether to go on before each step, before plain LoRA, and before the end: the last step + 1 and + 2."""
        self.saved: Path | None = None  # the newest checkpoint, which is of this step:
        self.saved_step = 0

    def go(
        self, output: Path, checkpoints: Path | None, resume_from: Path | None, *, with_documents: bool = True
    ) -> Finished | Stopped:
        """From the first step, or from a checkpoint, to the adapter on disk, as `write_adapter` does it."""
        if (stopped := self._train(checkpoints, resume_from)) is not None:
            return stopped
        setup = self.setup
        if setup.guided.spec is not None and setup.rivals.want_plain and self.progress.plain is None:
            initial = self.state.initial[: len(setup.target.parameters)]
            self.progress.plain, wish = setup.rivals.train_plainly(initial)
            if wish != "continue":
                return self._stopped(wish, checkpoints)
            if self.progress.plain is not None:
                self._save(checkpoints)
        if (wish := self.reach(setup.plan.total_steps + 2)) != "continue":
            return self._stopped(wish, checkpoints)
        return self._finish(output, with_documents)

    def judge(self, checkpoints: Path | None, resume_from: Path | None) -> Evaluation | Stopped:
        """From the first step, or from a checkpoint, to figures on the validation examples; no adapter is written."""
        if (stopped := self._train(checkpoints, resume_from)) is not None:
            return stopped
        self.setup.objective.fit_head(self.progress.step)
        figures = self._newest_figures() or self._evaluate()
        assert figures is not None
        return figures

    def _train(self, checkpoints: Path | None, resume_from: Path | None) -> Stopped | None:
        """The loop; None where it came to its end."""
        setup = self.setup
        if resume_from is not None:
            self.state = load_checkpoint(resume_from, self.identity(), setup.plan, setup.trained, setup.guided)
            setup = self.setup = setup.following(self.state.plan)
            self.saved, self.saved_step = resume_from, self.progress.step
            setup.objective.kinship = self.progress.kinship
        if self.progress.step == 0 and not self.progress.prepared:
            self.progress.baseline = self._evaluate()
            self.progress.retention = setup.retention.measure() if setup.retention else None
            found, wish = setup.rivals.ask_in_context()
            if found is not None:
                self.progress.in_context, self.progress.examples_shown = found
            if wish != "continue":
                return self._stopped(wish, checkpoints)
            if (wish := setup.sources.judge(setup.objective, self.reporter)) != "continue":
                return self._stopped(wish, checkpoints)
            self.progress.path_length = setup.trained.distance(self.state.initial)  # where sources led to
            setup.guided.begin(setup.objective.support())
            self.progress.prepared = True
            if setup.sources.judged:
                self._save(checkpoints)  # what took as long as several runs is not done again
        self.reporter.report(started(setup.plan, setup.workload, self.progress.step + 1))
        stopped_early = self._patience_is_over()
        for step in range(self.progress.step + 1, setup.plan.total_steps + 1):
            if stopped_early:
                break
            if (wish := self.reach(step)) != "continue":
                return self._stopped(wish, checkpoints)
            self._step(step)
            if setup.held_out and setup.plan.evaluates_at(step):
                self._look_at_validation(step)
                stopped_early = self._patience_is_over()
            if stopped_early or setup.plan.saves_at(step):
                self._save(checkpoints)
        if (wish := self.reach(setup.plan.total_steps + 1)) != "continue":
            return self._stopped(wish, checkpoints)
        return None

    @property
    def progress(self) -> Progress:
        """What there is to tell of it so far."""
        return self.state.progress

    def _ask_before(self, step: int) -> Control:
        return self.reporter.control() if step <= self.setup.plan.total_steps else "continue"

    def identity(self) -> RunIdentity:
        """Ties a checkpoint to its spec, data, base model and starting point."""
        return RunIdentity(
            spec=self.spec,
            base_model=self.base.sha256,
            training=self.files.training.sha256,
            validation=None if self.files.validation is None else self.files.validation.sha256,
            sources=tuple(source.sha256 for source in self.files.sources),
            start=None if self.start is None else self.start.sha256,
            retention=None if self.files.retention is None else self.files.retention.sha256,
        )

    def _step(self, step: int) -> None:
        setup, begun = self.setup, time.perf_counter()
        batch = setup.objective.batch(step)
        strength = setup.guided.strength(step, setup.plan.total_steps, self.spec.optimization.warmup_fraction)
        sources = setup.sources.batches(step)
        outcome = setup.guided.take(batch, strength, sources)
        of_heads = setup.sources.of_heads(sources, outcome.source_gradients)
        self.progress.path_length += setup.trained.update(outcome.gradient, of_heads, setup.plan, step)
        self.progress.add_layer_cosines(outcome.layer_source_cosines or {})
        tokens = sum(len(item.ids) for item in setup.objective.examples(step))
        self.progress.step = step
        self.progress.trained_tokens += tokens
        seconds = time.perf_counter() - begun
        self.progress.seconds += seconds
        self._record(step_metrics(setup.plan, step, outcome, seconds, tokens))
        if outcome.clipped:
            note = f"Step {step}: the gradient norm {outcome.gradient_norm:.3g} was abnormally large and was clipped."
            self.reporter.report(Notice(level="warn", message=note))

    def _look_at_validation(self, step: int) -> None:
        """Evaluate, and remember the best weights."""
        self.setup.objective.fit_head(self.progress.step)
        figures = self._evaluate()
        assert figures is not None
        self.figures, self.figures_step = figures, step
        self._record(evaluation_metrics(step, figures))
        progress = self.progress
        if progress.best_loss is None or figures.loss < progress.best_loss:
            progress.best_loss, progress.best_step, progress.evaluations_without_gain = figures.loss, step, 0
            self.state.best = self.setup.trained.now() if self.spec.evaluation.keep == "best" else None
        else:
            progress.evaluations_without_gain += 1

    def _patience_is_over(self) -> bool:
        """Whether the run ends before its last step. A function of what checkpoints hold, for those of such an end."""
        patience, progress = self.spec.evaluation.patience, self.progress
        if patience is None or progress.step == self.setup.plan.total_steps:
            return False
        return progress.evaluations_without_gain >= patience

    def _stopped(self, wish: Literal["cancel", "pause", "drain"], checkpoints: Path | None) -> Stopped:
        """End with a checkpoint of the present step; one that is there already is not written again."""
        if self.saved_step != self.progress.step:
            self._save(checkpoints)
        directory = None if self.saved is None else str(self.saved)
        return Stopped(reason=wish, step=self.progress.step, directory=directory)

    def _save(self, checkpoints: Path | None) -> None:
        if checkpoints is None:
            return
        self.setup.objective.fit_head(self.progress.step)
        self.saved = directory = save_checkpoint(
            checkpoints,
            self.identity(),
            self.state,
            self.setup.trained,
            self.setup.guided,
            AdapterMetadata(
                alpha=self.spec.lora.alpha, labels=self.setup.target.task.labels, base_model_sha256=self.base.sha256
            ),
            lambda directory: write_config(self.adapted, self.base, directory),
        )
        self.saved_step = self.progress.step
        self.reporter.report(
            CheckpointSaved(
                step=self.progress.step,
                directory=str(directory),
                metrics=self.progress.newest_figures(),
                compared=self.progress.plain is not None,
            )
        )

    def _finish(self, output: Path, with_documents: bool) -> Finished:
        stopped_early, distance = self._patience_is_over(), self.setup.trained.distance(self.state.initial)
        if self.spec.evaluation.keep == "best" and self.state.best is not None:
            self.setup.trained.put(self.state.best)
        else:
            self.setup.objective.fit_head(self.progress.step)
        figures = self._newest_figures() or self._evaluate()
        result = Adapted(
            spec=self.spec,
            base=self.base,
            adapted=self.adapted,
            task=self.setup.target.task,
            plan=self.setup.plan,
            progress=self.progress,
            files=self.files,
            probes=probes(self.setup.held_out or self.setup.target.items),
            evaluation=figures,
            distance=distance,
            stopped_early=stopped_early,
            start=None if self.start is None else StartedFrom(name=self.start.name, sha256=self.start.sha256),
            doubts=self.setup.rivals.doubts(),
            retention=self._retained(),
        )
        report = write_adapter(result, output, with_documents=with_documents)
        if (remark := self.setup.sources.remark(report.source)) is not None:
            self.reporter.report(remark)
        if report.retention is not None:
            self.reporter.report(Notice(message=report.retention.verdict))
        for baseline in report.baselines:
            self.reporter.report(Notice(message=baseline.comparison.verdict))
        return Finished(
            step=self.progress.step,
            trained_tokens=self.progress.trained_tokens,
            stopped_early=stopped_early,
            directory=str(output),
        )

    def _newest_figures(self) -> Evaluation | None:
        """The last evaluation, if it was of the weights that are kept."""
        kept = self.progress.best_step if self.spec.evaluation.keep == "best" else self.progress.step
        return self.figures if self.figures_step == kept else None

    def _retained(self) -> Retention | None:
        kept, before = self.setup.retention, self.progress.retention
        return None if kept is None or before is None else retained(before, kept.measure())

    def _evaluate(self) -> Evaluation | None:
        if not self.setup.held_out:
            return None
        figures = evaluate(self.setup.target.task, self.setup.held_out)
        if not math.isfinite(figures.loss):
            raise TrainingDivergedError(f"The validation loss is {figures.loss}.", "Lower the learning rate.")
        return figures

    def _record(self, message: AnyMessage) -> None:
        self.progress.history.append(message)
        self.reporter.report(message)
