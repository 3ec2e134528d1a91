"""What a run's gradients are of: the target task's own loss, or contrast between its examples."""

from __future__ import annotations

from collections.abc import Mapping

from torch.nn import Parameter

from sgg_core.guidance.passes import TaskBatch
from sgg_core.plan import Plan
from sgg_core.task_data import TaskData
from sgg_core.tasks.choice import probe_head
from sgg_core.tasks.contrast import Contrast
from sgg_core.tasks.pooled_head import PooledHead


class Objective:
    """The batches of a run on `target`, and over which parameters. With contrast these are the `adapter` only."""

    def __init__(self, target: TaskData, adapter: Mapping[str, Parameter], plan: Plan, seed: int) -> None:
        self.target, self.plan, self.seed = target, plan, seed
        self.data = target
        self._fitted_at: int | None = None
        self.labels = [item.label for item in target.items]
        if isinstance(target.task, PooledHead) and plan.contrasts(self.labels):
            self.data = TaskData(Contrast(target.task), target.items, dict(adapter))

    @property
    def contrasts(self) -> bool:
        """Whether the head is fitted afterwards."""
        return self.data is not self.target

    @property
    def parameters(self) -> dict[str, Parameter]:
        """What the gradients are over, by name."""
        return self.data.parameters

    def batch(self, step: int) -> TaskBatch:
        """The examples of a step (from 1), in the epoch's order, or as many of each label; of step 0 all."""
        everything = range(len(self.data.items))
        indices = self.plan.indices(step, self.seed, self.labels) if step else everything
        return self.data.batch(indices, step, self.seed)

    def fit_head(self, step: int) -> None:
        """After contrast, bring the target's head to where the features are now, after `step`; once for each step."""
        if self.contrasts and step != self._fitted_at:
            probe_head(self.target.task, self.target.items)
            self._fitted_at = step
