"""How many tokens of an example a training takes, where its spec leaves that open. Loads no torch."""

from __future__ import annotations

from sgg_core.catalogue import BaseModelEntry
from sgg_core.spec import CLASSIFIED_TOKENS, MOST_TOKENS, Auto, TrainingSpec


def token_limit(asked: int | Auto, entry: BaseModelEntry, kind: str) -> int:
    """`asked`, or what `auto` is for examples of this kind on this base model.

    A text is cut at its end and costs time up to there. A completion or chat that does not fit is refused, so of these
    the base model takes all that it sees.
    """
    if asked != "auto":
        return asked
    return min(entry.context_tokens, CLASSIFIED_TOKENS if kind == "classification" else MOST_TOKENS)


def with_token_limit(spec: TrainingSpec, entry: BaseModelEntry, kind: str, begun: TrainingSpec | None) -> TrainingSpec:
    """The spec with a number in place of `auto`; `begun` is that of the run that is resumed, whose limit stays."""
    asked = (begun or spec).task.max_tokens
    task = spec.task.model_copy(update={"max_tokens": token_limit(asked, entry, kind)})
    return spec.model_copy(update={"task": task})


def more_room(entry: BaseModelEntry, max_tokens: int) -> str:
    """What lets an example of more tokens in: `max_tokens`, or another base model where this one sees no more."""
    if max_tokens < min(entry.context_tokens, MOST_TOKENS):
        return f"raise hyperparameters.task.max_tokens, which is {max_tokens:,}"
    if entry.context_tokens > MOST_TOKENS:
        return f"divide long ones into several examples: none has more than {MOST_TOKENS:,} tokens"
    return f"choose a base model that sees more: {entry.name!r} sees {entry.context_tokens:,} tokens"
