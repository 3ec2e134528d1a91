"""The rival of every adapter: the same base model, untrained, with training examples in its prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import TypeGuard

import torch

from sgg_core import encoding
from sgg_core.encoding import TOKENS_PER_PASS, Encoded
from sgg_core.evaluation import classifier_evaluation, log_probabilities
from sgg_core.examples import ExampleSet
from sgg_core.figures import Evaluation
from sgg_core.reporting import Control, Notice, Reporter, Wish
from sgg_core.seeding import epoch_order
from sgg_core.shapes import ClassificationExample, Example
from sgg_core.spec import TrainingSpec
from sgg_core.tasks.label_words import ANSWER_LEAD, LabelWords
from sgg_core.tasks.task import Task

MOST_TOKENS = 2048  # of a prompt: longer ones take minutes on a CPU
ITEMS_AT_ONCE = 32  # between two looks at whether to go on


class InContext(LabelWords):
    """The labels of `task`, asked after a conversation that shows answered examples in the same format.

    As many of `examples` stand there (`examples_shown`) as leave room for the longest text that `task` takes, as evenly
    over the labels as can be.
    """

    def __init__(self, task: LabelWords, examples: Sequence[Example], description: str | None, seed: int) -> None:
        self._turns: list[dict[str, str]] = []
        super().__init__(task.base, task.labels, description, min(MOST_TOKENS, task.base.entry.context_tokens))
        for example in balanced(examples, seed):
            asked = encoding.label_messages(self.prompt, example.text, example.text_pair)
            answer = {"role": "assistant", "content": f"{ANSWER_LEAD} {example.label}"}
            self._turns += [*asked, answer]
            if len(self._prompt_ids("", None)) + task.max_tokens > self.max_tokens:
                del self._turns[-2:]
                break
        self.examples_shown = len(self._turns) // 2

    def passes(self, items: Sequence[Encoded], scoring: bool = False) -> Iterator[list[int]]:
        """Packed examples; what they have in common is kept and takes no time."""
        prefix = encoding.common_prefix([item.ids for item in items])
        budget = TOKENS_PER_PASS[self.base.device.type] + prefix
        return encoding.passes(items, budget, prefix, len(self.trie.tokens))

    def _messages(self, text: str, text_pair: str | None) -> list[dict[str, str]]:
        return [*self._turns, *super()._messages(text, text_pair)]


def balanced(examples: Sequence[Example], seed: int) -> Iterator[ClassificationExample]:
    """Classification examples in an order of their own in which the labels take turns."""
    groups: dict[str, list[ClassificationExample]] = {}
    for index in epoch_order(len(examples), seed, 0):
        example = examples[index]
        assert isinstance(example, ClassificationExample)
        groups.setdefault(example.label, []).append(example)
    for turn in zip_longest(*(groups[label] for label in sorted(groups))):
        yield from (example for example in turn if example is not None)


def evaluate_in_context(rival: InContext, examples: Sequence[Example], go_on: Callable[[], bool]) -> Evaluation | None:
    """Figures on validation examples, of whatever the base model is now; None if `go_on` said no.

    Raises ValueError where the chat template refuses such a conversation.
    """
    items = rival.encode(examples)
    rival.keep_prefix()
    scores = []
    for start in range(0, len(items), ITEMS_AT_ONCE):
        if not go_on():
            return None
        scores.append(log_probabilities(rival, items[start : start + ITEMS_AT_ONCE]))
    return classifier_evaluation(rival.labels, items, torch.cat(scores))


def wanted_in_context(task: Task, spec: TrainingSpec, device: str) -> TypeGuard[LabelWords]:
    """Whether a run with this task on a device of this type asks it where there is a validation file."""
    baselines = spec.evaluation.baselines
    wanted = "in_context" in baselines or (baselines == "auto" and device == "cuda")
    return wanted and isinstance(task, LabelWords)


def positions_in_context(
    task: LabelWords, training: ExampleSet, validation: ExampleSet, spec: TrainingSpec
) -> tuple[int, int]:
    """How many tokens `evaluate_in_context` computes, and how many of them stand before all others; 0 if it cannot."""
    try:
        rival = InContext(task, training.examples, spec.task.description, spec.seed)
        items = rival.encode(validation.examples)
    except ValueError:
        return 0, 0
    if rival.examples_shown == 0:
        return 0, 0
    prefix = encoding.common_prefix([item.ids for item in items])
    own = sum(len(item.ids) - prefix + len(rival.trie.tokens) for item in items)
    return prefix + own, prefix


def ask_in_context(
    task: LabelWords, training: ExampleSet, validation: ExampleSet, spec: TrainingSpec, reporter: Reporter
) -> tuple[tuple[Evaluation, int] | None, Control]:
    """`evaluate_in_context` and the number of examples shown, while the reporter lets it go on; also its last wish.

    None as well, with a warning, where the base model's template or its context has no room for examples.
    """
    wish = Wish(reporter)
    if not wish.may_go_on():
        return None, wish.last
    try:
        rival = InContext(task, training.examples, spec.task.description, spec.seed)
        if rival.examples_shown == 0:
            raise ValueError("no training example fits into the prompt")
        found = evaluate_in_context(rival, validation.examples, wish.may_go_on)
    except ValueError as error:
        reporter.report(Notice(level="warn", message=f"In-context prompting was not measured: {error}."))
        return None, wish.last
    if found is None:
        return None, wish.last
    words = f"{rival.examples_shown} of {len(training)} training examples in its prompt"
    told = f"The base model with {words}: accuracy {found.accuracy:.3f} on the validation examples."
    reporter.report(Notice(message=told))
    return (found, rival.examples_shown), wish.last
