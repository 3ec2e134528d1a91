"""The rival of a guided run: the same run by plain LoRA, from the same weights, with every `auto` as it is for that."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sgg_core.clipped_step import clipped_step
from sgg_core.encoding import Encoded
from sgg_core.errors import TrainingDivergedError
from sgg_core.evaluation import evaluate
from sgg_core.figures import Evaluation
from sgg_core.guidance.passes import placed
from sgg_core.objective import Objective
from sgg_core.plan import make_plan
from sgg_core.reporting import Control, Notice, Reporter
from sgg_core.spec import TrainingSpec
from sgg_core.start import StartingPoint
from sgg_core.task_data import TaskData
from sgg_core.weights import Weights


def train_plainly(
    target: TaskData,
    held_out: Sequence[Encoded],
    initial: Sequence[Tensor],
    spec: TrainingSpec,
    start: StartingPoint | None,
    reporter: Reporter,
) -> tuple[Evaluation | None, Control]:
    """`evaluate_plain`, while the reporter lets it go on; also what the reporter wished for last."""
    wish: Control = "continue"

    def may_go_on(step: int, total: int) -> bool:
        nonlocal wish
        if (step - 1) % max(1, total // 4) == 0:
            reporter.report(Notice(message=f"Plain LoRA, for comparison: step {step} of {total}."))
        wish = reporter.control()
        return wish == "continue"

    return evaluate_plain(target, held_out, initial, spec, start, may_go_on), wish


def rival_of(spec: TrainingSpec) -> TrainingSpec:
    """The rival's own spec."""
    task = spec.task.model_copy(update={"objective": "cross_entropy"})
    return spec.model_copy(update={"method": "supervised", "task": task})


def evaluate_plain(
    target: TaskData,
    held_out: Sequence[Encoded],
    initial: Sequence[Tensor],
    spec: TrainingSpec,
    start: StartingPoint | None,
    go_on: Callable[[int, int], bool],
) -> Evaluation | None:
    """Train from `initial` without guidance, evaluate on `held_out` as the guided run is, and put the present weights
    back: the last weights, or the best ones, until patience is over.

    `go_on` is asked before each step, with its number and that of all steps; None if it said no. Raises
    TrainingDivergedError.
    """
    spec = rival_of(spec)
    looks = spec.evaluation
    plan = make_plan(spec, target.task.base.entry.kind, *target.sizes)
    objective = Objective(target, {}, plan, spec.seed)
    parameters = Weights(list(target.parameters.values()), target.task.base.adapter)
    optimizer = torch.optim.AdamW(parameters.blocks, lr=plan.learning_rate, weight_decay=spec.optimization.weight_decay)
    figures = best = None
    without_gain = 0
    with placed(parameters, initial):
        objective.probe()  # a guided run's head may have learned from the names of labels
        if start is not None:
            start.put_on_head(target.task)
        for step in range(1, plan.total_steps + 1):
            if not go_on(step, plan.total_steps):
                return None
            gradient = objective.batch(step).gradient().gradient
            clipped_step(optimizer, parameters, gradient, plan, step)
            if step < plan.total_steps and not (looks.chooses and plan.evaluates_at(step)):
                continue
            figures = _evaluated(target, held_out)
            without_gain += 1
            if best is None or figures.loss < best.loss:
                best, without_gain = figures, 0
            if looks.patience is not None and without_gain >= looks.patience:
                break
    return best if looks.keep == "best" else figures


def _evaluated(target: TaskData, held_out: Sequence[Encoded]) -> Evaluation:
    figures = evaluate(target.task, held_out)
    if not math.isfinite(figures.loss):
        raise TrainingDivergedError(f"Its validation loss is {figures.loss}.", "Lower the learning rate.")
    return figures
