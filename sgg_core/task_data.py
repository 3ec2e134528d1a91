"""A task with its encoded examples and its trainable parameters, and the batches that it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch.nn import Parameter

from sgg_core.encoding import Encoded
from sgg_core.guidance.passes import TaskBatch
from sgg_core.seeding import derived_seed, epoch_order
from sgg_core.tasks.task import Task


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
