"""The names of labels as examples of them: what people call a label says what its examples are about.

With few examples this is worth several more of each label (docs/results/). Names that say nothing cost a little, and
names that mislead cost much, so the examples are asked first whether they lie near the names of their labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from sgg_core.encoding import Encoded
from sgg_core.evaluation import features
from sgg_core.shapes import ClassificationExample
from sgg_core.tasks.kinship import kinship_of
from sgg_core.tasks.pooled_head import PooledHead

NAMINGS = ("{}", "It was {}.")
NAMELESS = (
    "The labels' names are not used: to the base model, examples are no closer to the name of their own label than to "
    "other names. Names that say what a label means would help."
)
JUDGES = 64  # examples that are asked, or one of each label; so of 16 labels there are as many as kinship needs
NOISE = 1e-5  # a nearness of no more is that of names that all look the same


def label_names(task: PooledHead) -> list[Encoded]:
    """Examples of each of the task's labels that say its name. Underscores stand for spaces."""
    said = [(naming.format(label.replace("_", " ")), label) for naming in NAMINGS for label in task.labels]
    return task.encode([ClassificationExample(text, label) for text, label in said])


def with_names(items: Sequence[Encoded], names: Sequence[Encoded]) -> list[Encoded]:
    """The items, and after them those of the names whose labels they have."""
    labels = {item.label for item in items}
    return [*items, *(name for name in names if name.label in labels)]


class Names:
    """The labels' names as `examples`, and what the model makes of them beside `items`: it is asked once."""

    def __init__(self, task: PooledHead, items: Sequence[Encoded]) -> None:
        self.examples = label_names(task)
        self._task = task
        self._items = items

    def tell(self) -> bool:
        """Whether examples lie nearer to the name of their label than to the others'."""
        return nearness(*self._seen) > NOISE

    def kinship(self) -> Tensor:
        """How near the labels may be to each other, as `kinship_of` has it."""
        return kinship_of(*self._seen, self._task.labels)

    @cached_property
    def _seen(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features (B, d) of some examples of each label, their labels (B,), and both of the names."""
        of_label: dict[int, list[Encoded]] = defaultdict(list)
        for item in self._items:
            of_label[item.label].append(item)
        each = max(1, JUDGES // len(of_label))
        asked = [item for label in sorted(of_label) for item in of_label[label][:each]]
        found = features(self._task, [*asked, *self.examples])
        labels = torch.tensor([item.label for item in (*asked, *self.examples)], device=found.device)
        count = len(asked)
        return found[:count], labels[:count], found[count:], labels[count:]


def nearness(examples: Tensor, gold: Tensor, names: Tensor, named: Tensor) -> float:
    """Mean cosine of examples (B, d) of labels `gold` (B,) with names (M, d) of their label, less that with the others.

    Every label counts the same, and so does every name: one that lies near to everything gains nothing by it.
    """
    cosines = examples @ names.T
    labels = sorted(set(gold.tolist()))
    rows = torch.stack([cosines[gold == label].mean(0) for label in labels])
    between = torch.stack([rows[:, named == label].mean(1) for label in labels], 1)
    own, others = between.trace(), between.sum() - between.trace()
    return float(own / len(labels) - others / max(1, len(labels) * (len(labels) - 1)))
