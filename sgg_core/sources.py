"""The source tasks of a run: which of them help, and which one has its turn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.nn import Parameter

from sgg_core.encoding import Encoded
from sgg_core.gradients import Gradient
from sgg_core.guidance.passes import SourceBatch
from sgg_core.guidance.step import GuidedStep
from sgg_core.lineup import plan_of_part
from sgg_core.objective import Objective
from sgg_core.plan import Plan, rehearsal_plan
from sgg_core.rehearsal import Rehearsals, Verdict, can_be_halved, can_judge
from sgg_core.reporting import Control, Notice, Reporter, Wish
from sgg_core.spec import TrainingSpec
from sgg_core.task_data import TaskData
from sgg_core.tasks.choice import probe_head
from sgg_core.telemetry import SourceAlignment


class SourceTasks:
    """Source tasks in the order of their files. `shared` leading parameters of each are the target's as well."""

    def __init__(
        self,
        tasks: Sequence[TaskData],
        filenames: Sequence[str],
        shared: int,
        spec: TrainingSpec,
        plan: Plan,
        guided: GuidedStep,
    ) -> None:
        self.tasks, self.filenames, self.shared = tasks, filenames, shared
        self.spec, self.plan, self.guided = spec, plan, guided
        self.rule = guided.spec.source_weight if guided.spec is not None else None

    def batches(self, step: int) -> list[SourceBatch]:
        """The step's batches: those of all sources as tasks of equal rank, else the sources in use take turns."""
        used = [number for number in range(len(self.tasks)) if self._is_used(number)]
        if not used:
            return []
        turn, place = divmod(step - 1, len(used))
        if self.rule == "equal":
            return [self._batch(number, step - 1, step) for number in used]
        return [self._batch(used[place], turn, step)]

    def of_heads(self, batches: Sequence[SourceBatch], gradients: Sequence[Gradient]) -> dict[Parameter, Tensor]:
        """Out of the gradients of these batches, those of what a source trains beside the adapter: its head, if any."""
        found: dict[Parameter, Tensor] = {}
        for batch, gradient in zip(batches, gradients, strict=True):
            head = list(self.tasks[batch.number].parameters.values())[self.shared :]
            parts = zip(head, gradient[self.shared :], strict=True)
            found |= {parameter: part.to(parameter.dtype) for parameter, part in parts}
        return found

    @property
    def judged(self) -> bool:
        """Whether `judge` has something to find out."""
        return self.rule == "cross_fitted" and bool(self.tasks)

    def judge(self, objective: Objective, reporter: Reporter) -> Control:
        """With `cross_fitted`, find out which sources help and tell. Anything but `continue`: the reporter's wish."""
        if not self.judged:
            return "continue"
        wish = Wish(reporter)
        target, names = objective.target, objective.names
        training = None
        if target.task.base.entry.kind == "causal" and can_be_halved(target.items):
            training = partial(self._training, target)
        rehearsals = Rehearsals(target, self.spec.optimization.weight_decay, wish.may_go_on, names, training)
        for number, source in enumerate(self.tasks):
            verdict = None
            if can_judge(target.task, target.items, names):
                verdict = rehearsals.judge(self._rehearsal(source))
                if verdict is None:
                    return wish.last
            self.guided.trust[number] = 1.0 if verdict and verdict.helps else 0.0
            reporter.report(_notice(self.filenames[number], verdict))
        if any(self._is_used(number) for number in range(len(self.tasks))):
            objective.probe()  # heads, to where the features are now
            for source in self.tasks:
                probe_head(source.task, source.items)
        return "continue"

    def remark(self, found: SourceAlignment | None) -> Notice | None:
        """What to say at the end of a run whose sources mostly pointed against its target, unless that was judged."""
        if found is None or found.conflict_share <= 0.5 or self.rule == "cross_fitted":
            return None
        return Notice(
            level="warn",
            message=f"The sources pointed against the target in {100 * found.conflict_share:.0f} % of the steps and "
            "may do harm; guidance.source_weight 'cross_fitted' checks that on held-out examples.",
        )

    def _is_used(self, number: int) -> bool:
        if self.rule == "cross_fitted":
            return self.guided.trust[number] > 0.0
        return self.rule is not None

    def _rehearsal(self, source: TaskData) -> Objective:
        """The source as the target of a run of its own, begun as one; with contrast, over the adapter alone."""
        assert source.number is not None
        plan = rehearsal_plan(self.spec, source.task.base.entry.kind, self.plan, *source.sizes)
        adapter = dict(list(source.parameters.items())[: self.shared])
        objective = Objective(source, adapter, plan, self.spec.seed + source.number + 1)
        if not objective.contrasts:
            objective.probe()
        return objective

    def _training(self, target: TaskData, items: list[Encoded]) -> Objective:
        """Some of the target's examples as those of a run of its own."""
        data = TaskData(target.task, items, target.parameters)
        plan = plan_of_part(self.spec, target.task.base.entry.kind, *target.sizes, len(items))
        return Objective(data, target.parameters, plan, self.spec.seed)

    def _batch(self, number: int, turn: int, step: int) -> SourceBatch:
        batch = self.tasks[number].turn(turn, self.plan.batch_size, step, self.spec.seed)
        return SourceBatch(batch, self.shared, number)


def _notice(filename: str, verdict: Verdict | None) -> Notice:
    """What a rehearsal found out about a source, for people."""
    if verdict is None:
        reason = "a label has only one example, so none can be held out to judge by"
        return Notice(level="warn", message=f"Source {filename} is left out: {reason}.")
    loss = f"the training examples' held-out loss went from {verdict.before:.3f} to {verdict.after:.3f}"
    found = f"in a rehearsal on it alone, {loss}"
    if verdict.learned is not None:
        found += ", and after training on half of them from {:.3f} to {:.3f}".format(*verdict.learned)
    if verdict.helps:
        return Notice(message=f"Source {filename} is used: {found}.")
    return Notice(level="warn", message=f"Source {filename} does not help and is left out: {found}.")
