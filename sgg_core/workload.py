"""What a run will compute, counted on its encoded examples with the grouping that its passes use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sgg_core.backbone import LoadedBase
from sgg_core.doubts import MOST_EXAMPLES
from sgg_core.encoding import Encoded
from sgg_core.estimate import Workload
from sgg_core.guidance.guide import every_kth, ramp
from sgg_core.in_context import positions_in_context, wanted_in_context
from sgg_core.lineup import plan_of_part
from sgg_core.lora_layers import linear_layers
from sgg_core.plain_rival import rival_of
from sgg_core.plan import Plan, make_plan, rehearsal_plan
from sgg_core.rehearsal import can_be_halved, halves
from sgg_core.retention import RetentionSet
from sgg_core.run_files import RunFiles
from sgg_core.spec import TrainingSpec
from sgg_core.task_data import TaskData
from sgg_core.tasks.label_names import label_names, with_names
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.tasks.task import Task
from sgg_core.tasks.text import TextTask

MOST_STEPS = 64  # counted; more steps are like these


@dataclass(frozen=True)
class RunData:
    """What a run reads, encoded, and as files, which examples in a prompt are taken from and asked of."""

    target: TaskData
    sources: Sequence[TaskData]
    held_out: Sequence[Encoded]
    retention: RetentionSet | None
    files: RunFiles


def workload(
    spec: TrainingSpec,
    plan: Plan,
    base: LoadedBase,
    data: RunData,
    adapter_weights: int,
    device: str,
    *,
    delivers: bool = True,
) -> Workload:
    """Count what one run with this plan computes on a device of this type, by its batches.

    Its evaluations are those after steps, one before the first, and its rival's. One that `delivers` an adapter looks
    for wrong labels.
    """
    target, held_out = data.target, data.held_out
    names = _names(plan, target)
    batches = _batches(plan, spec.seed, target, names)
    passes = [target.task.positions(batch) for batch in batches]
    over_vocabulary = isinstance(target.task, TextTask)
    per_source = [sum(source.task.positions(source.items[: plan.batch_size])) for source in data.sources]
    rule = spec.guidance.source_rule
    at_once = sum(per_source) if rule == "equal" else sum(per_source) / max(1, len(per_source))
    compared = spec.guided and bool(held_out) and "plain_lora" in spec.evaluation.baselines
    steps = range(1, plan.total_steps + 1)
    evaluations = sum(plan.evaluates_at(step) for step in steps) if held_out else 0
    of_rival = (evaluations if spec.evaluation.chooses else 1) if compared else 0
    rival_steps, rival_positions = _rival(spec, target) if compared else (0, 0.0)
    checkpoints = sum(plan.saves_at(step) for step in steps) + compared
    prompted, shared = _in_context(spec, data, device)
    kept_positions, kept_trained = _retained(data.retention)
    return Workload(
        **_size(base, device),
        vocabulary=base.model.get_output_embeddings().weight.shape[0] if base.entry.kind == "causal" else 0,
        adapter_weights=adapter_weights,
        steps=plan.total_steps,
        rival_steps=rival_steps,
        rival_positions=rival_positions,
        gradients=_gradients(spec, plan),
        positions=_mean(passes),
        trained=sum(map(_trained, batches)) / len(batches) if over_vocabulary else 0.0,
        source_positions=at_once if spec.guided else 0.0,
        rehearsal_positions=_rehearsed(spec, plan, target, data.sources) if spec.guided else 0.0,
        evaluations=evaluations + 1 + of_rival if held_out else 0,
        evaluation_positions=sum(target.task.positions(held_out, scoring=True)) if held_out else 0,
        evaluation_trained=_trained(held_out) if over_vocabulary else 0,
        examined_positions=delivers * _examined(target) + _fitted(plan, target, names, bool(held_out)),
        in_context_positions=prompted,
        in_context_prefix=shared,
        retention_positions=kept_positions,
        retention_trained=kept_trained,
        checkpoints=checkpoints,
        largest_pass=max([_held(passes, _compares(plan, target, names)), *_held_of_sources(spec, plan, data.sources)]),
        largest_trained=_largest_trained(target.task, batches) if over_vocabulary else 0,
    )


def _size(base: LoadedBase, device: str) -> dict[str, Any]:
    halved = base.halves is not None and device == "cpu"
    embeddings = base.model.get_input_embeddings().weight.numel()
    stored = sum(parameter.numel() for name, parameter in base.model.named_parameters() if "lora_" not in name)
    return {
        "kind": base.entry.kind,
        "weights": stored - embeddings,
        "stored_weights": stored,
        "halved_weights": sum(layer.weight.numel() for layer in linear_layers(base).values()) if halved else 0,
        "width": base.hidden_size,
        "layers": int(base.model.config.num_hidden_layers),
    }


def _batches(plan: Plan, seed: int, target: TaskData, names: Sequence[Encoded]) -> list[list[Encoded]]:
    """Those of the first steps."""
    labels = [item.label for item in target.items]
    steps = range(1, min(plan.total_steps, MOST_STEPS) + 1)
    batches = ([target.items[index] for index in plan.indices(step, seed, labels)] for step in steps)
    return [with_names(batch, names) for batch in batches]


def _mean(passes: Sequence[Sequence[int]]) -> float:
    return sum(map(sum, passes)) / len(passes)


def _rival(spec: TrainingSpec, target: TaskData) -> tuple[int, float]:
    """Steps of plain LoRA, and the positions of one."""
    plan = make_plan(rival_of(spec), target.task.base.entry.kind, *target.sizes)
    batches = _batches(plan, spec.seed, target, _names(plan, target))
    return plan.total_steps, _mean([target.task.positions(batch) for batch in batches])


def _gradients(spec: TrainingSpec, plan: Plan) -> float:
    """How many gradients' worth of passes over its batch a step takes, on average."""
    guidance, total = spec.guidance, plan.total_steps
    if not spec.guided:
        return 1.0
    warmup = spec.optimization.warmup_fraction
    ramped = ((step, ramp(step, total, warmup, guidance.ramp_fraction)) for step in range(1, total + 1))
    corrected = sum(every_kth(step, strength, guidance.every) > 0.0 for step, strength in ramped) / total
    extra = {"finite_difference": 1.0, "exact": 2.5, "momentum": 0.0}[guidance.variant] * corrected
    drift = 1.5 if guidance.reference == "base_kl" else 0.0
    return 1.0 + extra + drift


def _rehearsed(spec: TrainingSpec, run: Plan, target: TaskData, sources: Sequence[TaskData]) -> float:
    """Of all steps on sources alone, and of those that judge them: on halves of the target, for a language model."""
    if spec.guidance.source_rule != "cross_fitted":
        return 0.0
    kind = target.task.base.entry.kind
    on_sources = sum(
        _trained_on(spec, rehearsal_plan(spec, kind, run, *source.sizes), source, source.items) for source in sources
    )
    if kind != "causal" or not can_be_halved(target.items):
        return on_sources
    parts = [(half, plan_of_part(spec, kind, *target.sizes, len(half))) for half in halves(target.items)]
    judged = sum(_trained_on(spec, plan, target, half) for half, plan in parts)
    return on_sources + (1 + len(sources)) * judged


def _trained_on(spec: TrainingSpec, plan: Plan, data: TaskData, items: list[Encoded]) -> float:
    """Of all steps of a plain training on some of a task's examples."""
    batches = _batches(plan, spec.seed, replace(data, items=items), _names(plan, data))
    return plan.total_steps * _mean([data.task.positions(batch) for batch in batches])


def _compares(plan: Plan, target: TaskData, names: Sequence[Encoded]) -> bool:
    """Whether examples, or names of labels, are compared with each other."""
    return plan.objective == "contrast" and (bool(names) or plan.contrasts([item.label for item in target.items]))


def _held(passes: Sequence[Sequence[int]], compared: bool) -> int:
    """Positions whose graphs are there at once: of all passes of a batch whose examples are compared, else of one."""
    return max(map(sum if compared else max, passes))


def _held_of_sources(spec: TrainingSpec, run: Plan, sources: Sequence[TaskData]) -> list[int]:
    """The same of each source, in a rehearsal or beside the target."""
    if not spec.guided:
        return []
    held = []
    for source in sources:
        plan = rehearsal_plan(spec, source.task.base.entry.kind, run, *source.sizes)
        compared = spec.guidance.source_rule == "cross_fitted" and _compares(plan, source, ())
        longest = sorted(source.items, key=lambda item: len(item.ids))[-plan.batch_size :]
        held.append(_held([source.task.positions(longest)], compared))
    return held


def _examined(target: TaskData) -> int:
    task, items = target.task, target.items
    if isinstance(task, TextTask) or len(items) > MOST_EXAMPLES:
        return 0
    return sum(task.positions(items, scoring=True))


def _names(plan: Plan, target: TaskData) -> list[Encoded]:
    """The names of labels that count as examples, if they do; whether they tell is not looked at here."""
    task = target.task
    return label_names(task) if isinstance(task, PooledHead) and plan.label_names else []


def _fitted(plan: Plan, target: TaskData, names: Sequence[Encoded], evaluates: bool) -> int:
    """Of the passes that an encoder's head is fitted on: before the run and, with contrast, whenever it is needed."""
    if not isinstance(target.task, PooledHead):
        return 0
    fits = 1
    if _compares(plan, target, names):
        steps = range(1, plan.total_steps + 1)
        fits += sum(plan.saves_at(step) or (evaluates and plan.evaluates_at(step)) for step in steps)
    return fits * sum(target.task.positions(with_names(target.items, names)))


def _in_context(spec: TrainingSpec, data: RunData, device: str) -> tuple[int, int]:
    task = data.target.task
    if data.files.validation is None or not wanted_in_context(task, spec, device):
        return 0, 0
    return positions_in_context(task, data.files.training, data.files.validation, spec)


def _retained(kept: RetentionSet | None) -> tuple[int, int]:
    """Positions and trained tokens of both measurements together."""
    if kept is None:
        return 0, 0
    positions = sum(kept.task.positions(kept.items, scoring=True))
    trained = _trained(kept.items) if isinstance(kept.task, TextTask) else 0
    return 2 * positions, 2 * trained


def _trained(items: Sequence[Encoded]) -> int:
    return sum(len(item.targets) for item in items)


def _largest_trained(task: Task, batches: Sequence[Sequence[Encoded]]) -> int:
    return max(_trained([batch[index] for index in group]) for batch in batches for group in task.passes(batch))
