"""A helper's side of a team: computes its part of every batch that the leader tells of."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter

from sgg_core.backbone import LoadedBase
from sgg_core.base_loading import load_directory
from sgg_core.guidance.passes import Share
from sgg_core.lora_layers import lora
from sgg_core.pipe import MessagePipe
from sgg_core.tasks.choice import task_for
from sgg_core.tasks.contrast import Contrast
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.tasks.task import Task
from sgg_core.team.group import ProcessGroup
from sgg_core.team.messages import Errand, Learn, Loaded, Start, order_adapter
from sgg_core.team.parts import part_of


@dataclass(frozen=True)
class Known:
    """A task, and the parameters that its gradients are over, as the leader orders them."""

    task: Task
    parameters: list[Parameter]


def help_out(pipe: MessagePipe, lines: queue.SimpleQueue[bytes]) -> None:
    """Load the base model that the first line names, and run errands for ever.

    Raises HelperLostError where others of the team are gone.
    """
    start = Start.model_validate_json(lines.get())
    device = torch.device(start.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(start.threads)
    base = load_directory(start.entry, start.directory, device)
    pipe.send(Loaded(base_model=base.sha256))
    group = ProcessGroup(start.place, start.size, device, start.meeting)
    with lora(base, start.lora, seed=0) as adapted:
        tasks: list[Known] = []
        while True:
            order = order_adapter.validate_json(lines.get())
            if isinstance(order, Learn):
                tasks.append(_learned(order, base, adapted))
            else:
                _run(order, tasks[order.task], group)


def _learned(lesson: Learn, base: LoadedBase, adapted: Any) -> Known:
    task = task_for(base, lesson.kind, lesson.labels, lesson.description, base.entry.context_tokens)
    head = None if lesson.kinship else task.head()
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    parameters += [] if head is None else list(head.parameters())
    weights = sum(parameter.numel() for parameter in parameters)
    if weights != lesson.weights:
        raise ValueError(f"The leader trains {lesson.weights} weights where its helper has {weights}.")
    if lesson.kinship:
        assert isinstance(task, PooledHead)
        task = Contrast(task, torch.tensor(lesson.kinship, device=base.device))
    return Known(task, parameters)


def _run(errand: Errand, known: Known, group: ProcessGroup) -> None:
    """Take the leader's weights over, compute, and add to the sum."""
    parameters = known.parameters
    wanted = parameters if errand.kind == "gradient" else [*parameters, *parameters]
    values = group.spread(wanted)
    with torch.no_grad():
        torch._foreach_copy_(list(parameters), values[: len(parameters)])
    share = Share(known.task, errand.items, parameters, errand.units, errand.seed)
    group.total(part_of(share, group).compute(errand.kind, values[len(parameters) :]))
