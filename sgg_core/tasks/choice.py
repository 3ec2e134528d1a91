"""Which task a data file is, on which base model."""

from __future__ import annotations

from collections.abc import Sequence

from sgg_core.backbone import LoadedBase
from sgg_core.catalogue import check_objective, check_task
from sgg_core.encoding import Encoded
from sgg_core.errors import SpecError
from sgg_core.evaluation import features
from sgg_core.examples import ExampleSet
from sgg_core.spec import Auto, TrainingSpec
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.tasks.task import Task
from sgg_core.tasks.text import TextTask
from sgg_core.token_limit import token_limit


def make_task(spec: TrainingSpec, base: LoadedBase, examples: ExampleSet, describe: bool = True) -> Task:
    """The task of a data file. `describe` False leaves out the spec's description (a source is another task).

    Raises SpecError where spec, data and base model don't go together.
    """
    check_task(base.entry, examples.kind)
    if spec.task.type not in ("auto", examples.kind):
        raise SpecError(
            f"task.type is {spec.task.type!r}, but {examples.filename} holds {examples.kind} examples.",
            "Leave task.type at 'auto'.",
        )
    check_objective(base.entry, spec.task.objective, spec.optimization.balanced_batches)
    description = spec.task.description if describe else None
    return task_for(base, examples.kind, examples.labels, description, spec.task.max_tokens, spec.seed)


def task_for(
    base: LoadedBase,
    kind: str,
    labels: Sequence[str],
    description: str | None,
    max_tokens: int | Auto,
    seed: int = 0,
) -> Task:
    """A task from its parts, as a saved adapter names them."""
    max_tokens = token_limit(max_tokens, base.entry, kind)
    if kind == "classification" and base.entry.kind == "encoder":
        return PooledHead(base, labels, max_tokens, seed)
    if kind == "classification":
        return LabelWords(base, labels, description, max_tokens)
    return TextTask(base, max_tokens)


def encoded(task: Task, data: ExampleSet) -> list[Encoded]:
    """A file's examples for `task`. Raises DataError naming completions and chats that it cannot use."""
    return task.encode_file(data) if isinstance(task, TextTask) else task.encode(data.examples)


def probe_head(task: Task, items: Sequence[Encoded]) -> None:
    """Give a pooled head the weights of a linear probe on the features of `items`, as the encoder is now."""
    if isinstance(task, PooledHead):
        task.fit(items, features(task, items))
