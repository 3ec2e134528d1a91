"""The rival of a guided run: the same run by plain LoRA, from the same weights, with the same batches and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sgg_core.encoding import Encoded
from sgg_core.errors import TrainingDivergedError
from sgg_core.evaluation import evaluate
from sgg_core.figures import Evaluation
from sgg_core.guidance.passes import placed
from sgg_core.objective import Objective
from sgg_core.plain_step import plain_step
from sgg_core.plan import make_plan
from sgg_core.reporting import Control, Notice, Reporter
from sgg_core.spec import TrainingSpec
from sgg_core.task_data import TaskData
from sgg_core.weights import Weights


def train_plainly(
    target: TaskData, held_out: Sequence[Encoded], initial: Sequence[Tensor], spec: TrainingSpec, reporter: Reporter
) -> tuple[Evaluation | None, Control]:
    """`evaluate_plain`, while the reporter lets it go on; also what the reporter wished for last."""
    wish: Control = "continue"

    def may_go_on(step: int, total: int) -> bool:
        nonlocal wish
        if (step - 1) % max(1, total // 4) == 0:
            reporter.report(Notice(message=f"Plain LoRA, for comparison: step {step} of {total}."))
        wish = reporter.control()
        return wish == "continue"

    return evaluate_plain(target, held_out, initial, spec, may_go_on), wish


def evaluate_plain(
    target: TaskData,
    held_out: Sequence[Encoded],
    initial: Sequence[Tensor],
    spec: TrainingSpec,
    go_on: Callable[[int, int], bool],
) -> Evaluation | None:
    """Train from `initial` without guidance, evaluate the last weights on `held_out`, and put the present ones back.

    `go_on` is asked before each step, with its number and that of all steps; None if it said no. Raises
    TrainingDivergedError.
    """
    task = spec.task.model_copy(update={"objective": "cross_entropy"})
    spec = spec.model_copy(update={"method": "supervised", "task": task})
    plan = make_plan(spec, target.task.base.entry.kind, *target.sizes)
    objective = Objective(target, {}, plan, spec.seed)
    parameters = Weights(list(target.parameters.values()), target.task.base.adapter)
    optimizer = torch.optim.AdamW(parameters.blocks, lr=plan.learning_rate, weight_decay=spec.optimization.weight_decay)
    with placed(parameters, initial):
        for step in range(1, plan.total_steps + 1):
            if not go_on(step, plan.total_steps):
                return None
            gradient = objective.batch(step).gradient().gradient
            plain_step(optimizer, parameters, gradient, plan, step)
        figures = evaluate(target.task, held_out, target.task.base.device)
    if not math.isfinite(figures.loss):
        raise TrainingDivergedError(f"Its validation loss is {figures.loss}.", "Lower the learning rate.")
    return figures
