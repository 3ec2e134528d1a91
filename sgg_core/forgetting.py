"""What a training has forgotten, in figures and in a sentence. Loads no torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel

from sgg_core.evidence import Comparison, compared
from sgg_core.figures import Evaluation

NOTHING = 0.02  # of the loss: a smaller rise is not called forgetting


class Retention(BaseModel):
    """Figures on the retention file. `measure` is accuracy (labelled examples) or the mean loss of a token (texts)."""

    measure: Literal["accuracy", "loss"]
    examples: int
    before: float
    after: float
    comparison: Comparison | None = None
    verdict: str


def retained(before: Evaluation, after: Evaluation) -> Retention:
    """What came of two measurements of one retention file, in figures and in a sentence."""
    if before.answers is not None and after.answers is not None:
        found = compared(
            before.answers, after.answers, "the model before training", of="the model after it", items="retention"
        )
        measure: Literal["accuracy", "loss"] = "accuracy"
        figures, verdict = (before.accuracy, after.accuracy), found.verdict
    else:
        found, measure, figures = None, "loss", (before.loss, after.loss)
        change = after.loss / before.loss - 1 if before.loss else math.inf
        word = "fell" if change < 0 else "rose"
        told = "nothing to speak of was forgotten" if change < NOTHING else "some of what it knew was forgotten"
        verdict = (
            f"The loss per token on the retention examples {word} from {before.loss:.3f} to {after.loss:.3f} "
            f"({100 * change:+.1f} %): {told}."
        )
    return Retention(
        measure=measure,
        examples=after.examples,
        before=figures[0],
        after=figures[1],
        comparison=found,
        verdict=verdict,
    )
