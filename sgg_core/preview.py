"""What a training shows the base model of each example, and over which parts the loss is: read off the encoding that
trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from sgg_core.backbone import LoadedBase
from sgg_core.errors import Problem
from sgg_core.examples import ExampleSet
from sgg_core.shapes import ClassificationExample, Example
from sgg_core.spec import TrainingSpec
from sgg_core.tasks.choice import make_task
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.tasks.task import Task
from sgg_core.tasks.text import TextTask
from sgg_core.trials import Preview, PreviewedExample, Segment

TRAINED = {
    LabelWords: "The label's tokens where labels differ, each against the tokens that other labels have in that place.",
    PooledHead: "No tokens. A head predicts the label from the mean of all token states.",
    TextTask: "All tokens of completions and of assistant messages with weight 1, including the end tokens.",
}


def preview(spec: TrainingSpec, base: LoadedBase, data: ExampleSet, limit: int) -> Preview:
    """The first `limit` examples of a training file. Raises SpecError where spec, data and base don't go together."""
    task = make_task(spec, base, data)
    shown = tuple(_previewed(task, data.examples[:limit], data.lines))
    return Preview(trained=TRAINED[type(task)], examples=shown)


def _previewed(task: Task, examples: Sequence[Example], lines: Sequence[int]) -> Iterator[PreviewedExample]:
    for line, example in zip(lines, examples, strict=False):
        label = example.label if isinstance(example, ClassificationExample) else None
        try:
            (item,) = task.encode([example])
        except ValueError as error:
            reason = f"The base model cannot read this conversation: {error}."
            problem = Problem(line, "messages", reason, "Begin with a user message, then alternate the roles.")
            yield PreviewedExample(
                line=line, segments=(), label=label, tokens=0, trained_tokens=0, truncated=False, problem=problem
            )
            continue
        tokens = task.shown(item)
        yield PreviewedExample(
            line=line,
            segments=tuple(segments(task.base.tokenizer, tokens)),
            label=label,
            tokens=len(tokens),
            trained_tokens=sum(trained for _, trained in tokens),
            truncated=item.truncated,
            problem=task.too_long(item, line) if isinstance(task, TextTask) else None,
        )


def segments(tokenizer: Any, tokens: Sequence[tuple[int, bool]]) -> Iterator[Segment]:
    """Runs of tokens that are all trained, or all not, as text; special tokens are written by their names."""
    for trained, run in groupby(tokens, key=lambda token: token[1]):
        ids = [token for token, _ in run]
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        yield Segment(text=text, trained=trained)
