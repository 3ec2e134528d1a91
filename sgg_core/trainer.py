"""The training loop."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from sgg_core.adapter import Adapted, write_adapter
from sgg_core.backbone import LoadedBase, lora
from sgg_core.checkpoint import Progress, load_checkpoint, save_checkpoint
from sgg_core.encoding import Encoded
from sgg_core.errors import OutOfMemoryError, SpecError, TrainingDivergedError
from sgg_core.evaluation import evaluate
from sgg_core.examples import ExampleSet, check_sources, check_training, check_validation
from sgg_core.figures import Evaluation
from sgg_core.gradients import norm
from sgg_core.guidance.step import GuidedStep, SourceBatch, StepOutcome
from sgg_core.plan import Plan, make_plan
from sgg_core.reporting import (
    AnyMessage,
    CheckpointSaved,
    EvaluationMetrics,
    Finished,
    Notice,
    Reporter,
    Started,
    StepMetrics,
    Stopped,
)
from sgg_core.seeding import epoch_order
from sgg_core.spec import TrainingSpec
from sgg_core.tasks.choice import encoded, make_task, probe_head
from sgg_core.tasks.task import Task


def train(
    spec: TrainingSpec,
    base: LoadedBase,
    training: ExampleSet,
    *,
    output: Path,
    reporter: Reporter,
    validation: ExampleSet | None = None,
    sources: Sequence[ExampleSet] = (),
    checkpoints: Path | None = None,
    resume_from: Path | None = None,
) -> Finished | Stopped:
    """Train an adapter for `base` and write it to `output`, or stop at a checkpoint when the reporter asks for it.

    `checkpoints` receives step-* directories; `resume_from` is one of them. `base` is unchanged afterwards and can be
    used again. Raises subclasses of SggError; `output` appears whole or not at all.
    """
    check_training(training)
    if validation is not None:
        check_validation(training, validation)
    elif spec.evaluation.keep == "best" or spec.evaluation.patience is not None:
        raise SpecError("evaluation.keep 'best' and evaluation.patience need a validation file.", "Add one.")
    check_sources(training, sources)
    with lora(base, spec.lora, spec.seed) as adapted:
        try:
            run = Run(spec, base, adapted, training, validation, sources, reporter)
            return run.go(output, checkpoints, resume_from)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                "The device's memory did not suffice for a training step.",
                "Lower optimization.batch_size or task.max_tokens, or choose a smaller base model.",
            ) from error


@dataclass
class TaskData:
    """A task with its encoded examples and its trainable parameters by name, the adapter's first."""

    task: Task
    items: list[Encoded]
    parameters: dict[str, Parameter] = field(default_factory=dict)


class Run:
    """One training run: what `train` sets up before the loop, and the loop."""

    def __init__(
        self,
        spec: TrainingSpec,
        base: LoadedBase,
        adapted: Any,
        training: ExampleSet,
        validation: ExampleSet | None,
        sources: Sequence[ExampleSet],
        reporter: Reporter,
    ) -> None:
        self.spec, self.base, self.adapted, self.reporter = spec, base, adapted, reporter
        self.training, self.validation, self.sources = training, validation, sources
        self.plan: Plan = make_plan(spec, base.entry.kind, len(training))
        adapter = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
        self.target = self._task_data(training, adapter, "head")
        self.source_tasks = [self._task_data(s, adapter, f"source{i}") for i, s in enumerate(sources)]
        self.held_out = self._encoded(self.target.task, validation) if validation is not None else []
        self.shared = len(adapter)
        self.everything = dict(self.target.parameters)
        for source in self.source_tasks:
            self.everything |= source.parameters
        guidance = spec.guidance if spec.method == "sgg" and spec.guidance.variant != "off" else None
        self.guided = GuidedStep(self.target.task, list(self.target.parameters.values()), guidance, spec.seed)
        self.optimizer = torch.optim.AdamW(
            self.everything.values(), lr=self.plan.learning_rate, weight_decay=spec.optimization.weight_decay
        )
        self.progress = Progress()
        self.initial = self._weights()
        self.best: list[Tensor] | None = None
        self.figures: Evaluation | None = None
        self.figures_step: int | None = None

    def go(self, output: Path, checkpoints: Path | None, resume_from: Path | None) -> Finished | Stopped:
        """The loop: from the first step, or from a checkpoint, to the adapter on disk."""
        if resume_from is not None:
            self.progress, self.initial, self.best = load_checkpoint(
                resume_from, self.identity(), self.everything, self.optimizer, self.guided
            )
        if self.progress.step == 0:
            self.progress.baseline = self._evaluate()
        self._announce()
        stopped_early = self._patience_is_over()
        for step in range(self.progress.step + 1, self.plan.total_steps + 1):
            if stopped_early:
                break
            if (wish := self.reporter.control()) != "continue":
                saved = self._save(checkpoints) if self.progress.step else None
                return Stopped(reason=wish, step=self.progress.step, directory=None if saved is None else str(saved))
            self._step(step)
            if self.held_out and self.plan.evaluates_at(step):
                self._look_at_validation(step)
                stopped_early = self._patience_is_over()
            if stopped_early or self.plan.saves_at(step):
                self._save(checkpoints)
        return self._finish(output, stopped_early)

    def identity(self) -> str:
        """Ties a checkpoint to its spec, data and base model."""
        parts = [self.spec.fingerprint(), self.base.sha256, self.training.sha256]
        parts.append("" if self.validation is None else self.validation.sha256)
        parts += [source.sha256 for source in self.sources]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def _step(self, step: int) -> None:
        begun = time.perf_counter()
        items = [self.target.items[index] for index in self.plan.batch(step, self.spec.seed)]
        strength = self.guided.strength(step, self.plan.total_steps, self.spec.optimization.warmup_fraction)
        source, source_data = self._source_batch(step)
        outcome = self.guided.take(step, strength, items, source)
        self._update(step, outcome, source_data)
        tokens = sum(len(item.ids) for item in items)
        self.progress.step = step
        self.progress.trained_tokens += tokens
        seconds = time.perf_counter() - begun
        self.progress.seconds += seconds
        self._record(
            StepMetrics(
                step=step,
                total_steps=self.plan.total_steps,
                epoch=step / self.plan.steps_per_epoch,
                train_loss=outcome.loss,
                train_accuracy=outcome.accuracy,
                learning_rate=self.plan.learning_rate_at(step),
                gradient_norm=outcome.gradient_norm,
                reference_cosine=outcome.reference_cosine,
                clipped=outcome.clipped,
                source_cosine=outcome.source_cosine,
                source_weight=outcome.source_weight,
                seconds=seconds,
                tokens=tokens,
            )
        )
        if outcome.clipped:
            note = f"Step {step}: abnormal gradient norm {outcome.gradient_norm:.3g} was clipped."
            self.reporter.report(Notice(level="warn", message=note))

    def _update(self, step: int, outcome: StepOutcome, source: TaskData | None) -> None:
        """Hand the optimizer one gradient per parameter, clipped over the target's, and take its step."""
        before = [parameter.detach().clone() for parameter in self.everything.values()]
        for parameter in self.everything.values():
            parameter.grad = None
        target = list(self.target.parameters.values())
        for parameter, gradient in zip(target, outcome.gradient, strict=True):
            parameter.grad = gradient
        if self.plan.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(target, self.plan.clip_norm)
        if source is not None and outcome.source_gradient is not None:
            own = list(source.parameters.values())[self.shared :]
            for parameter, gradient in zip(own, outcome.source_gradient[self.shared :], strict=True):
                parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate_at(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        moved = torch._foreach_sub([p.detach() for p in self.everything.values()], before)
        self.progress.path_length += norm(moved)

    def _source_batch(self, step: int) -> tuple[SourceBatch | None, TaskData | None]:
        """The step's batch of a source task; several sources take turns."""
        if not self.source_tasks or self.guided.spec is None:
            return None, None
        turn, number = divmod(step - 1, len(self.source_tasks))
        data = self.source_tasks[number]
        per_epoch = max(1, len(data.items) // self.plan.batch_size)
        epoch, position = divmod(turn, per_epoch)
        order = epoch_order(len(data.items), self.spec.seed + number + 1, epoch)
        chosen = order[position * self.plan.batch_size : (position + 1) * self.plan.batch_size]
        items = [data.items[index] for index in chosen]
        return SourceBatch(data.task, items, list(data.parameters.values()), self.shared), data

    def _look_at_validation(self, step: int) -> None:
        """Evaluate, and remember the best weights."""
        figures = self._evaluate()
        assert figures is not None
        self.figures, self.figures_step = figures, step
        self._record(
            EvaluationMetrics(
                step=step,
                valid_loss=figures.loss,
                valid_accuracy=figures.accuracy,
                valid_macro_f1=figures.macro_f1,
                examples=figures.examples,
            )
        )
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

    def _save(self, checkpoints: Path | None) -> Path | None:
        if checkpoints is None:
            return None
        directory = save_checkpoint(
            checkpoints,
            self.identity(),
            self.progress,
            self.everything,
            self.optimizer,
            self.guided,
            self.initial,
            self.best,
        )
        metrics: dict[str, float] = {"step": self.progress.step}
        for message in self.progress.history:
            if isinstance(message, StepMetrics):
                metrics |= {"train_loss": message.train_loss, "train_mean_token_accuracy": message.train_accuracy}
                metrics["gradient_norm"] = message.gradient_norm
                if message.reference_cosine is not None:
                    metrics["reference_cosine"] = message.reference_cosine
                if message.source_cosine is not None:
                    metrics["source_cosine"] = message.source_cosine
            elif isinstance(message, EvaluationMetrics):
                metrics["full_valid_loss"] = message.valid_loss
                if message.valid_accuracy is not None:
                    metrics["full_valid_mean_token_accuracy"] = message.valid_accuracy
        self.reporter.report(CheckpointSaved(step=self.progress.step, directory=str(directory), metrics=metrics))
        return directory

    def _finish(self, output: Path, stopped_early: bool) -> Finished:
        if self.spec.evaluation.keep == "best" and self.best is not None:
            with torch.no_grad():
                torch._foreach_copy_(list(self.everything.values()), self.best)
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
            sources=tuple(self.sources),
            probes=(self.held_out or self.target.items)[:8],
            evaluation=figures,
            distance=norm(torch._foreach_sub(self._weights(), self.initial)),
            stopped_early=stopped_early,
        )
        write_adapter(result, output)
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

    def _evaluate(self) -> Evaluation | None:
        if not self.held_out:
            return None
        figures = evaluate(self.target.task, self.held_out, self.base.device)
        if not math.isfinite(figures.loss):
            raise TrainingDivergedError(f"The validation loss is {figures.loss}.", "Lower the learning rate.")
        return figures

    def _weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.everything.values()]

    def _record(self, message: AnyMessage) -> None:
        self.progress.history.append(message)
        self.reporter.report(message)

    def _announce(self) -> None:
        self.reporter.report(
            Started(
                first_step=self.progress.step + 1,
                total_steps=self.plan.total_steps,
                trainable_parameters=sum(parameter.numel() for parameter in self.target.parameters.values()),
                learning_rate=self.plan.learning_rate,
                batch_size=self.plan.batch_size,
                epochs=self.plan.epochs,
            )
        )

    def _task_data(self, examples: ExampleSet, adapter: dict[str, Parameter], name: str) -> TaskData:
        task = make_task(self.spec, self.base, examples, describe=examples is self.training)
        items = self._encoded(task, examples)
        probe_head(task, items)
        head = task.head()
        own = {} if head is None else {f"{name}.{key}": p for key, p in head.named_parameters()}
        return TaskData(task, items, adapter | own)

    def _encoded(self, task: Task, examples: ExampleSet) -> list[Encoded]:
        items = encoded(task, examples)
        cut = sum(item.truncated for item in items)
        if cut:
            note = f"{examples.filename}: {cut} of {len(items)} texts were cut to fit task.max_tokens."
            self.reporter.report(Notice(level="warn", message=note))
        return items
