"""What is only suspicious in data files: a person has to look, and nothing is refused. Loads no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sgg_core.errors import Problem
from sgg_core.parsing import ProblemLog, excerpt
from sgg_core.shapes import ChatExample, ClassificationExample, CompletionExample, Example, characters
from sgg_core.similarity import near_duplicates
from sgg_core.spec import CLASSIFIED_TOKENS, MOST_TOKENS

CHARACTERS_PER_TOKEN = 4
MOST_REMARKS = 5  # of one file
IMBALANCE = 5  # a label this many times as frequent as another pulls answers its way


def suspicions(examples: Sequence[Example], lines: Sequence[int]) -> tuple[Problem, ...]:
    """Warnings about one file, in the order of its lines.

    Equal or almost equal examples, one text with two labels, labels that differ in case only, labels seen once, and
    labels that are much more frequent than others.
    """
    log = ProblemLog()
    repeated = _suspect_repetitions(examples, lines, log)
    _suspect_near_duplicates(examples, lines, repeated, log)
    labels = [
        (example.label, line)
        for example, line in zip(examples, lines, strict=True)
        if isinstance(example, ClassificationExample)
    ]
    _suspect_labels(labels, log)
    return (*_imbalance(labels), *sorted(log.problems, key=lambda problem: problem.line or 0))


def leaks(
    training: Sequence[Example], training_lines: Sequence[int], held_out: Sequence[Example], lines: Sequence[int]
) -> tuple[Problem, ...]:
    """Warnings about held-out examples that training shows already, word for word or almost: they measure memory."""
    log = ProblemLog()
    seen: dict[str, int] = {}
    for example, line in zip(training, training_lines, strict=True):
        seen.setdefault(question_of(example), line)
    fresh = []
    for number, example in enumerate(held_out):
        where = seen.get(question_of(example))
        if where is None:
            fresh.append(number)
            continue
        log.add(lines[number], None, f"The training file holds this example on line {where}.", "Remove one of them.")
    texts = [question_of(example) for example in training]
    for pair in near_duplicates([*texts, *(question_of(held_out[number]) for number in fresh)], known=len(texts)):
        log.add(
            lines[fresh[pair.later - len(texts)]],
            None,
            f"The training file holds almost the same text on line {training_lines[pair.earlier]} "
            f"({100 * pair.similarity:.0f} % of the words).",
            "Remove one of them; otherwise the accuracy on this file is too good.",
        )
    return tuple(sorted(log.problems, key=lambda problem: problem.line or 0))


def remarks(filename: str, warnings: Sequence[Problem]) -> list[str]:
    """The first of these warnings of a file, for someone who is about to train on it."""
    told = [f"{filename}, {warning}" for warning in warnings[:MOST_REMARKS]]
    if len(warnings) > MOST_REMARKS:
        left = len(warnings) - MOST_REMARKS
        told.append(f"{filename}: {left:,} more like these; `sgg files check` lists them all.")
    return told


def probably_cut(examples: Sequence[Example], lines: Sequence[int]) -> tuple[Problem, ...]:
    """Warnings about examples that are probably too long for what task.max_tokens is by default.

    Only a base model's tokenizer can count; English has a little more than four characters a token. How many tokens of
    a completion or chat the base model sees is not known yet, but a training takes no more than MOST_TOKENS.
    """
    log = ProblemLog()
    for example, line in zip(examples, lines, strict=True):
        size, classifies = characters(example), isinstance(example, ClassificationExample)
        if size <= CHARACTERS_PER_TOKEN * (CLASSIFIED_TOKENS if classifies else MOST_TOKENS):
            continue
        reason = f"The example has {size:,} characters, about {size // CHARACTERS_PER_TOKEN:,} tokens."
        remedy = (
            f"Texts longer than hyperparameters.task.max_tokens (default {CLASSIFIED_TOKENS}) are cut at their end: "
            "shorten this one, or raise the limit."
            if classifies
            else f"Examples longer than the base model sees, {MOST_TOKENS:,} tokens at most, are refused: shorten this."
        )
        log.add(line, None, reason, remedy)
    return tuple(log.problems)


def question_of(example: Example) -> str:
    """What the model is shown of an example, without what it should answer."""
    if isinstance(example, ClassificationExample):
        return example.text if example.text_pair is None else f"{example.text}\n{example.text_pair}"
    if isinstance(example, CompletionExample):
        return example.prompt
    last = max(index for index, turn in enumerate(example.messages) if turn.role == "assistant" and turn.weight)
    return "\n".join(turn.content for turn in example.messages[:last])


def _suspect_repetitions(examples: Sequence[Example], lines: Sequence[int], log: ProblemLog) -> set[int]:
    """Note equal examples, and equal texts with different labels; give the indices of both."""
    first_seen: dict[Example, int] = {}
    first_label: dict[tuple[str, str | None], tuple[str, int]] = {}
    repeated = set()
    for number, (example, line) in enumerate(zip(examples, lines, strict=True)):
        if example in first_seen:
            log.add(
                line, None, f"The example is the same as the one on line {first_seen[example]}.", "Remove one of them."
            )
            repeated.add(number)
            continue
        first_seen[example] = line
        if isinstance(example, ClassificationExample):
            label, where = first_label.setdefault((example.text, example.text_pair), (example.label, line))
            if label != example.label:
                reason = (
                    f"The same text has the label {excerpt(label)} on line {where}, and {excerpt(example.label)} here."
                )
                log.add(line, "label", reason, "Keep the label that is right.")
                repeated.add(number)
    return repeated


def _suspect_near_duplicates(
    examples: Sequence[Example], lines: Sequence[int], repeated: set[int], log: ProblemLog
) -> None:
    compared = [number for number in range(len(examples)) if number not in repeated]
    for pair in near_duplicates([_whole(examples[number]) for number in compared]):
        later, earlier = compared[pair.later], compared[pair.earlier]
        first, second = examples[earlier], examples[later]
        share = f"{100 * pair.similarity:.0f} % of the words"
        labels = [example.label for example in (first, second) if isinstance(example, ClassificationExample)]
        if len(set(labels)) > 1:
            reason = (
                f"Almost the same text ({share}) has the label {excerpt(labels[0])} on line {lines[earlier]}, "
                f"and {excerpt(labels[1])} here."
            )
            log.add(lines[later], "label", reason, "Check which label is right.")
            continue
        reason = f"The example is almost the same as the one on line {lines[earlier]} ({share})."
        log.add(lines[later], None, reason, "Keep one of them: with few examples, each should be different.")


def _whole(example: Example) -> str:
    if isinstance(example, ChatExample):
        return "\n".join(turn.content for turn in example.messages)
    if isinstance(example, CompletionExample):
        return f"{example.prompt}\n{example.completion}"
    return question_of(example)


def _suspect_labels(labels: Sequence[tuple[str, int]], log: ProblemLog) -> None:
    counts = Counter(label for label, _ in labels)
    spellings: dict[str, str] = {}
    seen: set[str] = set()
    for label, line in labels:
        spelling = spellings.setdefault(label.casefold(), label)
        if spelling != label and label not in seen:
            reason = f"The labels {excerpt(spelling)} and {excerpt(label)} differ only in upper and lower case."
            log.add(line, "label", reason, "If they mean the same, write them alike.")
        seen.add(label)
        if counts[label] == 1 and len(labels) > 1:
            log.add(line, "label", f"The label {excerpt(label)} has only this example.", "Add a few more of it.")


def _imbalance(labels: Sequence[tuple[str, int]]) -> tuple[Problem, ...]:
    counts = Counter(label for label, _ in labels).most_common()
    if len(counts) < 2 or counts[0][1] < IMBALANCE * counts[-1][1] or counts[-1][1] == 1:  # one example: told already
        return ()
    (most, many), (least, few) = counts[0], counts[-1]
    reason = f"The label {excerpt(most)} has {many} examples, {excerpt(least)} has {few}."
    return (
        Problem(
            None, "label", reason, "Similar numbers train best: leave some out, or add examples of the rare labels."
        ),
    )
