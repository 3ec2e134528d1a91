"""What a run tells of itself: its start, its steps and its evaluations."""

from __future__ import annotations

from sgg_core.estimate import Workload, memory_need, reference_seconds
from sgg_core.figures import Evaluation
from sgg_core.guidance.step import StepOutcome
from sgg_core.plan import Plan
from sgg_core.reporting import EvaluationMetrics, Started, StepMetrics


def started(plan: Plan, workload: Workload, first_step: int) -> Started:
    """A run begins, or goes on with `first_step`."""
    return Started(
        first_step=first_step,
        total_steps=plan.total_steps,
        trainable_parameters=workload.adapter_weights,
        learning_rates=(plan.learning_rate,),
        batch_size=plan.batch_size,
        epochs=plan.epochs,
        reference=reference_seconds(workload),
        memory=memory_need(workload),
    )


def step_metrics(plan: Plan, step: int, outcome: StepOutcome, seconds: float, tokens: int) -> StepMetrics:
    """The figures of a step that took so long, over so many tokens of examples."""
    projected = outcome.projected
    assert outcome.accuracy is not None  # batches of tasks know it
    return StepMetrics(
        step=step,
        total_steps=plan.total_steps,
        epoch=step / plan.steps_per_epoch,
        train_loss=outcome.loss,
        train_accuracy=outcome.accuracy,
        learning_rate=plan.learning_rate_at(step),
        gradient_norm=outcome.gradient_norm,
        reference_cosine=outcome.reference_cosine,
        clipped=outcome.clipped,
        source_cosine=outcome.source_cosine,
        source_weight=outcome.source_weight,
        projected_gradient_norm=projected.gradient_norm if projected else None,
        projected_reference_cosine=projected.reference_cosine if projected else None,
        projected_source_cosine=projected.source_cosine if projected else None,
        seconds=seconds,
        tokens=tokens,
    )


def evaluation_metrics(step: int, figures: Evaluation) -> EvaluationMetrics:
    """The figures on the validation examples after `step`."""
    return EvaluationMetrics(
        step=step,
        valid_loss=figures.loss,
        valid_accuracy=figures.accuracy,
        valid_macro_f1=figures.macro_f1,
        examples=figures.examples,
    )
