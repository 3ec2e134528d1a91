"""Other methods on the same base models, tasks, batches and schedule: what SGG is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn import Parameter

from sgg_core.backbone import LoadedBase
from sgg_core.bench.assignment import Assignment, Method, NotApplicableError, Outcome, examples
from sgg_core.bench.prompted import Prompted
from sgg_core.clipped_step import clipped_step
from sgg_core.evaluation import log_probabilities
from sgg_core.gradients import Gradient, combined, inner
from sgg_core.lora_layers import lora, take_off
from sgg_core.plan import Plan, make_plan
from sgg_core.seeding import derived_seed
from sgg_core.task_data import TaskData
from sgg_core.tasks.choice import make_task, probe_head
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.torch_seeding import torch_seed

# Peak learning rates of the literature for methods that train other weights than LoRA; `method@RATE` replaces them.
RATES = {"full": 5e-5, "bitfit": 1e-3, "ia3": 5e-3, "prompt": 3e-2, "prefix": 1e-2}
VIRTUAL_TOKENS = 20

Trainable = tuple[LoadedBase, list[Parameter]]
Combine = Callable[[Gradient, Gradient], Gradient]


def zero_shot(given: Assignment) -> Outcome:
    """No training: label words as the language model ranks them, or the label whose name an encoder puts nearest."""
    task = make_task(given.spec(), given.base, given.training)
    rows = task.encode(_texts(given))
    if not isinstance(task, PooledHead):
        return Outcome(log_probabilities(task, rows))  # type: ignore[arg-type]
    names = [{"text": label.replace("_", " "), "label": label} for label in task.labels]
    with torch.no_grad():
        towards = task.features(task.encode(examples(names, "labels").examples))
        scores = torch.empty(len(rows), len(task.labels))
        for group in task.passes(rows, scoring=True):
            scores[group] = (task.features([rows[index] for index in group]) @ towards.T).cpu()
    return Outcome(scores)


def linear_probe(given: Assignment) -> Outcome:
    """A logistic regression on mean-pooled states of the frozen base model."""
    begun = time.perf_counter()
    task = PooledHead(given.base, given.training.labels, 512, given.cell.seed)
    probe_head(task, task.encode(given.training.examples))
    seconds = round(time.perf_counter() - begun, 1)
    return Outcome(log_probabilities(task, task.encode(_texts(given))), {"train_seconds": seconds})


def tuned(name: str, given: Assignment) -> Outcome:
    """A method that trains weights of its own instead of LoRA's."""
    plan = make_plan(given.spec(method="supervised"), given.base.entry.kind, *given.training.sizes)
    plan = replace(plan, learning_rate=given.rate or RATES[name], clip_norm=1.0)
    with TUNABLE[name](given) as (base, parameters):
        return _fitted(replace(given, base=base), parameters, plan, None)


@contextmanager
def all_weights(given: Assignment) -> Iterator[Trainable]:
    """Full fine-tuning."""
    yield from _own_weights(given.base, lambda name: True)


@contextmanager
def biases(given: Assignment) -> Iterator[Trainable]:
    """BitFit (Ben Zaken et al. 2022)."""
    yield from _own_weights(given.base, lambda name: name.endswith("bias"))


def _own_weights(base: LoadedBase, chosen: Callable[[str], bool]) -> Iterator[Trainable]:
    """Some of the base model's own weights, put back afterwards."""
    named = {name: p for name, p in base.model.named_parameters() if chosen(name)}
    if not named:
        raise NotApplicableError("the base model has no such weights")
    before = [parameter.detach().clone() for parameter in named.values()]
    for parameter in named.values():
        parameter.requires_grad_(True)
    try:
        yield base, list(named.values())
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(named.values()), before)
        base.model.requires_grad_(False)


@contextmanager
def ia3(given: Assignment) -> Iterator[Trainable]:
    """IA3 (Liu et al. 2022) by peft."""
    from peft import IA3Config, get_peft_model

    adapted = get_peft_model(given.base.model, IA3Config(task_type=_task_type(given.base)))
    try:
        yield given.base, [p for p in adapted.parameters() if p.requires_grad]
    finally:
        take_off(given.base, adapted)


@contextmanager
def virtual_tokens(prefix: bool, given: Assignment) -> Iterator[Trainable]:
    """Prompt tuning (Lester et al. 2021) or prefix tuning (Li and Liang 2021) by peft."""
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    kind = PrefixTuningConfig if prefix else PromptTuningConfig
    config = kind(num_virtual_tokens=VIRTUAL_TOKENS, task_type=_task_type(given.base))
    with torch_seed(derived_seed(given.cell.seed, "virtual tokens")):
        wrapped = get_peft_model(given.base.model, config)
    causal = given.base.entry.kind == "causal"
    standing_in = Prompted(wrapped, given.base.model, causal, prefix, VIRTUAL_TOKENS)
    try:
        yield replace(given.base, model=standing_in), [p for p in wrapped.parameters() if p.requires_grad]
    finally:
        given.base.model.requires_grad_(False)


def _task_type(base: LoadedBase) -> str:
    return "CAUSAL_LM" if base.entry.kind == "causal" else "FEATURE_EXTRACTION"


TUNABLE: dict[str, Any] = {
    "full": all_weights,
    "bitfit": biases,
    "ia3": ia3,
    "prompt": partial(virtual_tokens, False),
    "prefix": partial(virtual_tokens, True),
}


def mixed(combine: Combine, given: Assignment) -> Outcome:
    """Plain LoRA on target and source at once, their gradients combined."""
    spec = given.spec(method="supervised")
    with lora(given.base, spec.lora, spec.seed) as adapted:
        plan = make_plan(spec, given.base.entry.kind, *given.training.sizes)
        return _fitted(given, [p for p in adapted.parameters() if p.requires_grad], plan, combine)


def source_then_target(given: Assignment) -> Outcome:
    """Plain LoRA on the source, as long as the run, and then on the target."""
    spec = given.spec(method="supervised")
    with lora(given.base, spec.lora, spec.seed) as adapted:
        plan = make_plan(spec, given.base.entry.kind, *given.training.sizes)
        parameters = [p for p in adapted.parameters() if p.requires_grad]
        source = _source_data(given, parameters)
        optimizer = torch.optim.AdamW(source.parameters.values(), weight_decay=0.0)
        for step in range(1, plan.total_steps + 1):
            gradient = source.turn(step - 1, plan.batch_size, step, spec.seed).gradient().gradient
            clipped_step(optimizer, list(source.parameters.values()), gradient, plan, step)
        return _fitted(given, parameters, plan, None)


def added(target: Gradient, source: Gradient) -> Gradient:
    """Naive mixing."""
    return combined([(1.0, target), (1.0, source)])


def pcgrad(target: Gradient, source: Gradient) -> Gradient:
    """PCGrad (Yu et al. 2020) by torchjd."""
    from torchjd.aggregation import PCGradWeighting

    both = (target, source)
    gramian = torch.tensor([[inner(a, b) for b in both] for a in both], dtype=torch.float64)
    weights = PCGradWeighting()(gramian).tolist()
    return combined(list(zip(weights, both, strict=True)))


METHODS: dict[str, Method] = {
    "zero_shot": zero_shot,
    "linear_probe": linear_probe,
    **{name: partial(tuned, name) for name in TUNABLE},
}
PAIR_METHODS: dict[str, Method] = {
    "mixing": partial(mixed, added),
    "pcgrad": partial(mixed, pcgrad),
    "source_then_target": source_then_target,
}


def _fitted(given: Assignment, parameters: Sequence[Parameter], plan: Plan, combine: Combine | None) -> Outcome:
    """Train `parameters` and the task's head on the target, with the source's gradient combined in, and ask."""
    spec = given.spec()
    begun = time.perf_counter()
    task = make_task(spec, given.base, given.training)
    items = task.encode(given.training.examples)
    probe_head(task, items)
    head = task.head()
    own = [] if head is None else list(head.parameters())
    target = TaskData(task, items, _numbered([*parameters, *own]))
    source = None if combine is None else _source_data(given, parameters)
    trained = [*target.parameters.values(), *([] if source is None else source.parameters.values())]
    optimizer = torch.optim.AdamW(dict.fromkeys(trained), weight_decay=0.0)
    loss = 0.0
    for step in range(1, plan.total_steps + 1):
        found = target.batch([target.items[index] for index in plan.batch(step, spec.seed)], step, spec.seed).gradient()
        loss, gradient = found.loss, found.gradient
        if source is not None and combine is not None:
            other = source.turn(step - 1, plan.batch_size, step, spec.seed).gradient().gradient
            shared = len(parameters)
            gradient = [*combine(gradient[:shared], other[:shared]), *gradient[shared:]]
            for parameter, part in zip(list(source.parameters.values())[shared:], other[shared:], strict=True):
                parameter.grad = part
        clipped_step(optimizer, list(target.parameters.values()), gradient, plan, step)
    seconds = round(time.perf_counter() - begun, 1)
    scores = log_probabilities(task, task.encode(_texts(given)))  # type: ignore[arg-type]
    return Outcome(scores, {"steps": plan.total_steps, "train_seconds": seconds, "train_loss": round(loss, 4)})


def _source_data(given: Assignment, shared: Sequence[Parameter]) -> TaskData:
    assert given.source is not None
    task = make_task(given.spec(), given.base, given.source, describe=False)
    items = task.encode(given.source.examples)
    probe_head(task, items)
    head = task.head()
    return TaskData(task, items, _numbered([*shared, *([] if head is None else head.parameters())]), 0)


def _numbered(parameters: Sequence[Parameter]) -> dict[str, Parameter]:
    return {str(number): parameter for number, parameter in enumerate(parameters)}


def _texts(given: Assignment) -> Any:
    return examples(given.test, "test.jsonl").examples
