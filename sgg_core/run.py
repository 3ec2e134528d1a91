"""One training run: what is set up before the loop, the loop, and what becomes of its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from sgg_core.adapter import Adapted, write_adapter, write_config
from sgg_core.adapter_file import AdapterMetadata
from sgg_core.backbone import LoadedBase
from sgg_core.checkpoint import Progress, load_checkpoint, save_checkpoint
from sgg_core.encoding import Encoded
from sgg_core.errors import TrainingDivergedError
from sgg_core.evaluation import evaluate, probes
from sgg_core.examples import ExampleSet
from sgg_core.figures import Evaluation
from sgg_core.forgetting import Retention, retained
from sgg_core.gradients import Gradient, Vector, combined, norm
from sgg_core.guidance.passes import SourceBatch
from sgg_core.guidance.step import GuidedStep, StepOutcome
from sgg_core.identity import RunIdentity
from sgg_core.manifest import StartedFrom
from sgg_core.objective import Objective
from sgg_core.plan import Plan, make_plan
from sgg_core.reporting import (
    AnyMessage,
    CheckpointSaved,
    Control,
    Finished,
    Notice,
    Reporter,
    Stopped,
)
from sgg_core.retention import RetentionSet
from sgg_core.rivals import Rivals
from sgg_core.run_messages import evaluation_metrics, started, step_metrics
from sgg_core.sources import SourceTasks
from sgg_core.spec import TrainingSpec
from sgg_core.start import StartingPoint
from sgg_core.task_data import encoded_and_told, task_data
from sgg_core.tasks.choice import probe_head
from sgg_core.tasks.label_names import NAMELESS
from sgg_core.weights import Weights, in_blocks
from sgg_core.workload import RunData, workload


class Run:
    """What `train` makes for each seed; `go` runs it.

    `validation_seen` counts the validation examples that training shows, too.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        base: LoadedBase,
        adapted: Any,
        training: ExampleSet,
        validation: ExampleSet | None,
        sources: Sequence[ExampleSet],
        reporter: Reporter,
        start: StartingPoint | None = None,
        retention: ExampleSet | None = None,
        validation_seen: int = 0,
    ) -> None:
        self.spec, self.base, self.adapted, self.reporter = spec, base, adapted, reporter
        self.training, self.validation, self.sources, self.start = training, validation, sources, start
        self.validation_seen = validation_seen
        self.plan: Plan = make_plan(spec, base.entry.kind, *training.sizes)
        adapter = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
        if start is not None:  # before the tasks are made, whose heads begin as probes of the adapted model
            start.check(spec.lora, base)
            start.put_on(adapter)
        self.target = task_data(spec, base, training, adapter, None, reporter)
        self.objective = Objective(self.target, adapter, self.plan, spec.seed)
        if not self.objective.contrasts or validation is not None or sources:  # else nobody asks it before it is fitted
            self.objective.probe()
        if self.plan.label_names == "auto" and not self.objective.names:
            reporter.report(Notice(message=NAMELESS))
        if start is not None and (note := start.put_on_head(self.target.task)) is not None:
            reporter.report(Notice(message=note))
        source_data = [
            task_data(spec, base, examples, adapter, number, reporter) for number, examples in enumerate(sources)
        ]
        for source in source_data:
            probe_head(source.task, source.items)
        self.held_out: list[Encoded] = []
        if validation is not None:
            self.held_out = encoded_and_told(self.target.task, validation, spec.task.max_tokens, reporter)
        self.rivals = Rivals(spec, adapted, self.target, self.held_out, training, validation, start, reporter)
        weights = sum(parameter.numel() for parameter in self.target.parameters.values())
        self.retention = retention
        self.kept = None if retention is None else RetentionSet(base, retention, spec.task.max_tokens)
        data = RunData(self.target, source_data, self.held_out, self.kept, training, validation)
        self.workload = workload(spec, self.plan, base, data, weights)
        self.shared = len(adapter)
        self.everything, self.moving = dict(self.target.parameters), dict(self.objective.parameters)
        for source in source_data:
            self.everything |= source.parameters
            self.moving |= source.parameters
        guidance = None
        if spec.guided:
            guidance = spec.guidance.model_copy(update={"source_weight": spec.guidance.source_rule})
        scale = spec.lora.alpha / spec.lora.rank
        names = list(self.objective.parameters)
        self.weights = Weights(list(self.objective.parameters.values()), base.adapter)
        self.guided = GuidedStep(self.weights, guidance, names, scale)
        files = [examples.filename for examples in sources]
        self.source_tasks = SourceTasks(source_data, files, self.shared, spec, self.plan, self.guided)
        own = [p for source in source_data for p in list(source.parameters.values())[self.shared :]]
        self.blocks = [*self.weights.blocks, *own]  # what the optimizer moves
        self.optimizer = torch.optim.AdamW(
            self.blocks, lr=self.plan.learning_rate, weight_decay=spec.optimization.weight_decay
        )
        self.progress = Progress(kinship=self.objective.kinship)
        self.initial: Gradient = self._weights()
        self.best: Gradient | None = None
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
        if self.guided.spec is not None and self.rivals.want_plain and self.progress.plain is None:
            self.progress.plain, wish = self.rivals.train_plainly(self.initial[: len(self.target.parameters)])
            if wish != "continue":
                return self._stopped(wish, checkpoints)
            if self.progress.plain is not None:
                self._save(checkpoints)
        if (wish := self.reach(self.plan.total_steps + 2)) != "continue":
            return self._stopped(wish, checkpoints)
        return self._finish(output, with_documents)

    def judge(self, checkpoints: Path | None, resume_from: Path | None) -> Evaluation | Stopped:
        """From the first step, or from a checkpoint, to figures on the validation examples; no adapter is written."""
        if (stopped := self._train(checkpoints, resume_from)) is not None:
            return stopped
        self.objective.fit_head(self.progress.step)
        figures = self._newest_figures() or self._evaluate()
        assert figures is not None
        return figures

    def _train(self, checkpoints: Path | None, resume_from: Path | None) -> Stopped | None:
        """The loop; None where it came to its end."""
        if resume_from is not None:
            self.progress, self.initial, self.best = load_checkpoint(
                resume_from, self.identity(), self.everything, self.base.adapter, self.optimizer, self.guided
            )
            self.saved, self.saved_step = resume_from, self.progress.step
            self.objective.kinship = self.progress.kinship
        if self.progress.step == 0:
            self.progress.baseline = self._evaluate()
            self.progress.retention = self.kept.measure() if self.kept else None
            found, wish = self.rivals.ask_in_context()
            if found is not None:
                self.progress.in_context, self.progress.examples_shown = found
            if wish != "continue":
                return self._stopped(wish, checkpoints)
            if (wish := self.source_tasks.judge(self.objective, self.reporter)) != "continue":
                return self._stopped(wish, checkpoints)
            self.progress.path_length = self._distance()  # what sources led to is part of the way
            self.guided.begin(self.objective.support())
        self.reporter.report(started(self.plan, self.workload, self.progress.step + 1))
        stopped_early = self._patience_is_over()
        for step in range(self.progress.step + 1, self.plan.total_steps + 1):
            if stopped_early:
                break
            if (wish := self.reach(step)) != "continue":
                return self._stopped(wish, checkpoints)
            self._step(step)
            if self.held_out and self.plan.evaluates_at(step):
                self._look_at_validation(step)
                stopped_early = self._patience_is_over()
            if stopped_early or self.plan.saves_at(step):
                self._save(checkpoints)
        if (wish := self.reach(self.plan.total_steps + 1)) != "continue":
            return self._stopped(wish, checkpoints)
        return None

    def _ask_before(self, step: int) -> Control:
        return self.reporter.control() if step <= self.plan.total_steps else "continue"

    def identity(self) -> RunIdentity:
        """Ties a checkpoint to its spec, data, base model and starting point."""
        return RunIdentity(
            spec=self.spec,
            base_model=self.base.sha256,
            training=self.training.sha256,
            validation=None if self.validation is None else self.validation.sha256,
            sources=tuple(source.sha256 for source in self.sources),
            start=None if self.start is None else self.start.sha256,
            retention=None if self.retention is None else self.retention.sha256,
        )

    def _step(self, step: int) -> None:
        begun = time.perf_counter()
        batch = self.objective.batch(step)
        strength = self.guided.strength(step, self.plan.total_steps, self.spec.optimization.warmup_fraction)
        sources = self.source_tasks.batches(step)
        outcome = self.guided.take(batch, strength, sources)
        self._update(step, outcome, sources)
        self.progress.add_layer_cosines(outcome.layer_source_cosines or {})
        tokens = sum(len(item.ids) for item in self.objective.examples(step))
        self.progress.step = step
        self.progress.trained_tokens += tokens
        seconds = time.perf_counter() - begun
        self.progress.seconds += seconds
        self._record(step_metrics(self.plan, step, outcome, seconds, tokens))
        if outcome.clipped:
            note = f"Step {step}: abnormal gradient norm {outcome.gradient_norm:.3g} was clipped."
            self.reporter.report(Notice(level="warn", message=note))

    def _update(self, step: int, outcome: StepOutcome, sources: Sequence[SourceBatch]) -> None:
        """Hand the optimizer the gradient, clipped over the target's parameters, and take its step."""
        before = [block.detach().clone() for block in self.blocks]
        for block in self.blocks:
            block.grad = None
        target, gradients = in_blocks(self.weights, outcome.gradient)
        for part, gradient in zip(target, gradients, strict=True):
            part.grad = gradient
        if self.plan.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(target, self.plan.clip_norm)
        for source, of_source in zip(sources, outcome.source_gradients, strict=True):
            own = self.source_tasks.own_parameters(source.number)
            for parameter, gradient in zip(own, of_source[self.shared :], strict=True):
                parameter.grad = gradient.to(parameter.dtype)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate_at(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        moved = torch._foreach_sub([block.detach() for block in self.blocks], before)
        self.progress.path_length += norm(moved)

    def _look_at_validation(self, step: int) -> None:
        """Evaluate, and remember the best weights."""
        self.objective.fit_head(self.progress.step)
        figures = self._evaluate()
        assert figures is not None
        self.figures, self.figures_step = figures, step
        self._record(evaluation_metrics(step, figures))
        progress = self.progress
        if progress.best_loss is None or figures.loss < progress.best_loss:
            progress.best_loss, progress.best_step, progress.evaluations_without_gain = figures.loss, step, 0
            self.best = self._weights() if self.spec.evaluation.keep == "best" else None
        else:
            progress.evaluations_without_gain += 1

    def _patience_is_over(self) -> bool:
        """Whether the run ends before its last step. A function of what checkpoints hold, for those of such an end."""
        patience, progress = self.spec.evaluation.patience, self.progress
        if patience is None or progress.step == self.plan.total_steps:
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
        self.objective.fit_head(self.progress.step)
        self.saved = directory = save_checkpoint(
            checkpoints,
            self.identity(),
            self.progress,
            self.everything,
            self.base.adapter,
            self.optimizer,
            self.guided,
            self.initial,
            self.best,
            AdapterMetadata(
                alpha=self.spec.lora.alpha, labels=self.target.task.labels, base_model_sha256=self.base.sha256
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
        stopped_early, distance = self._patience_is_over(), self._distance()
        if self.spec.evaluation.keep == "best" and self.best is not None:
            with torch.no_grad():
                torch._foreach_copy_(list(self.everything.values()), list(self.best))
        else:
            self.objective.fit_head(self.progress.step)
        figures = self._newest_figures() or self._evaluate()
        result = Adapted(
            spec=self.spec,
            base=self.base,
            adapted=self.adapted,
            task=self.target.task,
            plan=self.plan,
            progress=self.progress,
            training=self.training,
            validation=self.validation,
            validation_seen=self.validation_seen,
            sources=tuple(self.sources),
            probes=probes(self.held_out or self.target.items),
            evaluation=figures,
            distance=distance,
            stopped_early=stopped_early,
            start=None if self.start is None else StartedFrom(name=self.start.name, sha256=self.start.sha256),
            doubts=self.rivals.doubts(),
            retention_data=self.retention,
            retention=self._retained(),
        )
        report = write_adapter(result, output, with_documents=with_documents)
        if (remark := self.source_tasks.remark(report.source)) is not None:
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
        before = self.progress.retention
        return None if self.kept is None or before is None else retained(before, self.kept.measure())

    def _evaluate(self) -> Evaluation | None:
        if not self.held_out:
            return None
        figures = evaluate(self.target.task, self.held_out, self.base.device)
        if not math.isfinite(figures.loss):
            raise TrainingDivergedError(f"The validation loss is {figures.loss}.", "Lower the learning rate.")
        return figures

    def _weights(self) -> Vector:
        return Vector.of(list(self.everything.values()))

    def _distance(self) -> float:
        """|theta_T - theta_0| over what the optimizer moves."""
        moved = combined([(1.0, self._weights()), (-1.0, self.initial)])
        if len(self.moving) < len(moved):
            moved = [part for name, part in zip(self.everything, moved, strict=True) if name in self.moving]
        return norm(moved)

    def _record(self, message: AnyMessage) -> None:
        self.progress.history.append(message)
        self.reporter.report(message)
