"""What a run is made of before its first step: plan, tasks, guidance, optimizer, and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sgg_core.backbone import LoadedBase
from sgg_core.encoding import Encoded
from sgg_core.estimate import Workload
from sgg_core.guidance.step import GuidedStep
from sgg_core.objective import Objective
from sgg_core.plan import Plan, make_plan
from sgg_core.reporting import Notice, Reporter
from sgg_core.retention import RetentionSet
from sgg_core.rivals import Rivals
from sgg_core.run_files import RunFiles
from sgg_core.sources import SourceTasks
from sgg_core.spec import TrainingSpec
from sgg_core.start import StartingPoint
from sgg_core.task_data import TaskData, encoded_and_told, task_data
from sgg_core.tasks.choice import probe_head
from sgg_core.tasks.label_names import NAMELESS
from sgg_core.trained import Trained
from sgg_core.workload import RunData, workload


@dataclass(frozen=True)
class RunSetup:
    """The parts of a run, as they stand before its first step."""

    plan: Plan
    target: TaskData
    objective: Objective
    sources: SourceTasks
    held_out: Sequence[Encoded]
    retention: RetentionSet | None
    rivals: Rivals
    workload: Workload
    guided: GuidedStep
    trained: Trained

    def following(self, plan: Plan) -> RunSetup:
        """The same with the plan that the run began with."""
        self.objective.plan = self.sources.plan = plan
        return replace(self, plan=plan)


def set_up(
    spec: TrainingSpec,
    base: LoadedBase,
    adapted: Any,
    files: RunFiles,
    start: StartingPoint | None,
    reporter: Reporter,
) -> RunSetup:
    """Set up a run of `adapted`, which is the base model with a fresh adapter. Tells what a person should know.

    Raises SpecError or DataError where the files or `start` do not fit.
    """
    plan = make_plan(spec, base.entry.kind, *files.training.sizes)
    adapter = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    if start is not None:  # before the tasks are made, whose heads begin as probes of the adapted model
        start.check(spec.lora, base)
        start.put_on(adapter)
    target = task_data(spec, base, files.training, adapter, None, reporter)
    objective = Objective(target, adapter, plan, spec.seed)
    if not objective.contrasts or files.validation is not None or files.sources:  # else nobody asks it before its fit
        objective.probe()
    if plan.label_names == "auto" and not objective.names:
        reporter.report(Notice(message=NAMELESS))
    if start is not None and (note := start.put_on_head(target.task)) is not None:
        reporter.report(Notice(message=note))
    sources = [task_data(spec, base, file, adapter, number, reporter) for number, file in enumerate(files.sources)]
    for source in sources:
        probe_head(source.task, source.items)
    held_out: list[Encoded] = []
    if files.validation is not None:
        held_out = encoded_and_told(target.task, files.validation, spec.task.max_tokens, reporter)
    retention = None if files.retention is None else RetentionSet(base, files.retention, files.retention_tokens)
    guidance = None
    if spec.guided:
        guidance = spec.guidance.model_copy(update={"source_weight": spec.guidance.source_rule})
    heads = {name: p for source in sources for name, p in list(source.parameters.items())[len(adapter) :]}
    trained = Trained(target.parameters, heads, objective.parameters, base.adapter, spec.optimization.weight_decay)
    guided = GuidedStep(trained.weights, guidance, list(objective.parameters), spec.lora.alpha / spec.lora.rank)
    data = RunData(target, sources, held_out, retention, files)
    count = sum(parameter.numel() for parameter in target.parameters.values())
    return RunSetup(
        plan=plan,
        target=target,
        objective=objective,
        sources=SourceTasks(sources, [file.filename for file in files.sources], len(adapter), spec, plan, guided),
        held_out=held_out,
        retention=retention,
        rivals=Rivals(spec, adapted, target, held_out, files, start, reporter),
        workload=workload(spec, plan, base, data, count, base.device.type),
        guided=guided,
        trained=trained,
    )
