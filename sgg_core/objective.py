"""What a run's gradients are of: the target task's own loss, or contrast between its examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn import Parameter

from sgg_core.encoding import Encoded
from sgg_core.guidance.passes import TaskBatch
from sgg_core.plan import Plan
from sgg_core.task_data import TaskData
from sgg_core.tasks.choice import probe_head
from sgg_core.tasks.contrast import Contrast
from sgg_core.tasks.label_names import Names, with_names
from sgg_core.tasks.pooled_head import PooledHead


class Objective:
    """The batches of a run on `target`, and over which parameters. With contrast these are the `adapter` only.

    `names` are the labels' names that count as examples, by label; none if the plan has none, or they say nothing.
    They are chosen when this is made, by the model as it is then, and so is which labels are akin to each other.
    """

    def __init__(self, target: TaskData, adapter: Mapping[str, Parameter], plan: Plan, seed: int) -> None:
        self.target, self.plan, self.seed = target, plan, seed
        self.data = target
        self.names: Sequence[Encoded] = ()
        self._fitted_at: int | None = None
        self.labels = [item.label for item in target.items]
        if isinstance(target.task, PooledHead):
            names = Names(target.task, target.items) if plan.label_names else None
            if names is not None and plan.label_names == "auto" and not names.tell():
                names = None
            self.names = () if names is None else names.examples
            if plan.objective == "contrast" and (self.names or plan.contrasts(self.labels)):
                contrast = Contrast(target.task, names.kinship() if names is not None and plan.label_kinship else None)
                self.data = TaskData(contrast, target.items, dict(adapter))

    @property
    def contrasts(self) -> bool:
        """Whether the head is fitted afterwards."""
        return self.data is not self.target

    @property
    def kinship(self) -> list[list[float]] | None:
        """How near the labels may be to each other, where contrast is what is learned; empty where none are akin."""
        task = self.data.task
        if not isinstance(task, Contrast):
            return None
        return task.kinship.tolist() if task.kinship.count_nonzero() > len(task.labels) else []

    @kinship.setter
    def kinship(self, found: list[list[float]] | None) -> None:
        """As it was when the run began, perhaps on another device, which sees names a little otherwise."""
        task = self.data.task
        if isinstance(task, Contrast) and found is not None:
            like = task.kinship
            task.kinship = (
                torch.tensor(found, device=like.device) if found else torch.eye(len(like), device=like.device)
            )

    @property
    def parameters(self) -> dict[str, Parameter]:
        """What the gradients are over, by name."""
        return self.data.parameters

    def examples(self, step: int) -> list[Encoded]:
        """Those of a step (from 1), in the epoch's order, or as many of each label; of step 0 all."""
        if step == 0:
            return self.data.items
        return [self.data.items[index] for index in self.plan.indices(step, self.seed, self.labels)]

    def batch(self, step: int) -> TaskBatch:
        """The examples of a step, and the names of their labels where these count."""
        return self.data.batch(with_names(self.examples(step), self.names), step, self.seed)

    def support(self) -> list[TaskBatch]:
        """All examples: as one batch, or as those of an epoch where what is compared must fit one pass."""
        steps = range(1, self.plan.steps_per_epoch + 1) if self.contrasts else (0,)
        return [self.batch(step) for step in steps]

    def probe(self) -> None:
        """Bring the target's head, if it has one, to where the features are now."""
        probe_head(self.target.task, with_names(self.target.items, self.names))

    def fit_head(self, step: int) -> None:
        """After contrast, `probe` the features that `step` left; once for each step."""
        if self.contrasts and step != self._fitted_at:
            self.probe()
            self._fitted_at = step
