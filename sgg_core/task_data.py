"""A task with its encoded examples and its trainable parameters, and the batches that it is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch.nn import Parameter

from sgg_core.backbone import LoadedBase
from sgg_core.encoding import Encoded
from sgg_core.examples import ExampleSet
from sgg_core.guidance.passes import TaskBatch
from sgg_core.reporting import Notice, Reporter
from sgg_core.seeding import derived_seed, epoch_order
from sgg_core.spec import Auto, TrainingSpec
from sgg_core.tasks.choice import encoded, make_task
from sgg_core.tasks.task import Task
from sgg_core.token_limit import more_room, token_limit


@dataclass
class TaskData:
    """`parameters` by name, the adapter's first. `number` is None for the target and counts the sources."""

    task: Task
    items: list[Encoded]
    parameters: dict[str, Parameter] = field(default_factory=dict)
    number: int | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        """How many examples there are, and with how many labels; texts have none."""
        return len(self.items), len({item.label for item in self.items if item.label >= 0})

    def batch(self, items: Sequence[Encoded], step: int, seed: int) -> TaskBatch:
        """Examples, of its own as a rule, as a batch with the dropout of `step`."""
        purpose = "dropout" if self.number is None else "source dropout"
        return TaskBatch(self.task, list(items), list(self.parameters.values()), derived_seed(seed, purpose, step))

    def turn(self, turn: int, size: int, step: int, seed: int) -> TaskBatch:
        """The batch of a source that has had its turn `turn` times before."""
        assert self.number is not None
        per_epoch = max(1, len(self.items) // size)
        epoch, position = divmod(turn, per_epoch)
        order = epoch_order(len(self.items), seed + self.number + 1, epoch)
        own = order[position * size : (position + 1) * size]
        return self.batch([self.items[index] for index in own], step, seed)


def task_data(
    spec: TrainingSpec,
    base: LoadedBase,
    examples: ExampleSet,
    adapter: Mapping[str, Parameter],
    number: int | None,
    reporter: Reporter,
) -> TaskData:
    """The target (`number` None) or a source of a run, with the adapter's parameters and those of its own head."""
    task = make_task(spec, base, examples, describe=number is None)
    items = encoded_and_told(task, examples, spec.task.max_tokens, reporter)
    head, name = task.head(), "head" if number is None else f"source{number}"
    own = {} if head is None else {f"{name}.{key}": p for key, p in head.named_parameters()}
    return TaskData(task, items, {**adapter, **own}, number)


def encoded_and_told(task: Task, examples: ExampleSet, max_tokens: int | Auto, reporter: Reporter) -> list[Encoded]:
    """A file's examples for `task`, of so many tokens; how many of its texts are cut is told."""
    items = encoded(task, examples)
    cut = sum(item.truncated for item in items)
    if cut:
        note = f"{examples.filename}: {cut} of {len(items)} texts were too long and were cut at their end"
        entry = task.base.entry
        room = more_room(entry, token_limit(max_tokens, entry, examples.kind))
        reporter.report(Notice(level="warn", message=f"{note}; to use them whole, {room}."))
    return items
