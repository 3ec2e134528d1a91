"""What all runs of a training will compute together, told before it and when it begins."""

from __future__ import annotations

from sgg_core.backbone import LoadedBase
from sgg_core.estimate import Workload, memory_need
from sgg_core.lineup import Lineup
from sgg_core.lora_layers import count_adapter_weights
from sgg_core.plan import make_plan
from sgg_core.retention import RetentionSet
from sgg_core.run_files import RunFiles
from sgg_core.spec import TrainingSpec
from sgg_core.task_data import TaskData
from sgg_core.tasks.choice import encoded, make_task
from sgg_core.workload import RunData, workload


def read_files(spec: TrainingSpec, base: LoadedBase, files: RunFiles) -> RunData:
    """Encode the files as the runs on all examples do. Raises DataError or SpecError where they do not fit."""
    task = make_task(spec, base, files.training)
    target = TaskData(task, encoded(task, files.training))
    sources = []
    for file in files.sources:
        source = make_task(spec, base, file, describe=False)
        sources.append(TaskData(source, encoded(source, file)))
    held_out = [] if files.validation is None else encoded(task, files.validation)
    retention = None if files.retention is None else RetentionSet(base, files.retention, files.retention_tokens)
    return RunData(target, sources, held_out, retention, files)


def whole_workload(lineup: Lineup, base: LoadedBase, data: RunData, device: str) -> Workload:
    """Count what all runs of a spec compute on a device of this type.

    Those on all examples count by the batches of the first seed, those of a fold by those of the first learning rate.
    """
    spec, target = lineup.spec, data.target
    head = target.task.head()
    own = 0 if head is None else sum(parameter.numel() for parameter in head.parameters())
    weights = count_adapter_weights(base, spec.lora) + own
    load = workload(spec, make_plan(spec, base.entry.kind, *target.sizes), base, data, weights, device)
    tried = [_of_fold(lineup, number, base, data, weights, device) for number in range(spec.optimization.folds or 0)]
    return load.model_copy(update={"replicas": spec.optimization.whole, "tried": tuple(tried)})


def _of_fold(lineup: Lineup, number: int, base: LoadedBase, data: RunData, weights: int, device: str) -> Workload:
    """Of the runs without one fold: they are judged by what it leaves out, and by no file beside the training's."""
    fold, items = lineup.replica(number, {}), data.target.items
    assert fold.part is not None
    part = TaskData(data.target.task, [items[place] for place in fold.part.kept])
    judged = RunData(part, data.sources, [items[place] for place in fold.part.left_out], None, data.files)
    plan = make_plan(fold.spec, base.entry.kind, *part.sizes)
    load = workload(fold.spec, plan, base, judged, weights, device, delivers=False)
    return load.model_copy(update={"replicas": len(lineup.spec.optimization.learning_rates)})


def replicas_at_once(spec: TrainingSpec, base: LoadedBase, load: Workload, memory_bytes: int | None) -> int:
    """How many replicas of a spec with this work `memory_bytes` are expected to suffice for; all, if that is None."""
    if spec.lonely is not None or base.team is not None:
        return 1
    most = spec.optimization.most_at_once
    return most if memory_bytes is None else min(most, memory_need(load).replicas_within(memory_bytes))
