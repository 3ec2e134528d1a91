"""Training a toy before the first job comes, so that it finds all code loaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sgg_core.reporting import AnyMessage, Control

if TYPE_CHECKING:
    from sgg_core.backbone import LoadedBase

TOY = b"".join(b'{"text": "number %d", "label": "%s"}\n' % (i, (b"even", b"odd")[i % 2]) for i in range(8))


class StopsSoon:
    """A Reporter that hears nothing and ends the run after a few steps."""

    def __init__(self, steps: int) -> None:
        self._steps_left = steps

    def report(self, message: AnyMessage) -> None:
        """Forget the message."""

    def control(self) -> Control:
        """Go on for the steps it was made for."""
        self._steps_left -= 1
        return "continue" if self._steps_left >= 0 else "cancel"


def warm_up(base: LoadedBase) -> None:
    """Take two steps with a base model and throw them away: loads lazy modules, compiles kernels, fills pools."""
    from sgg_core.examples import parse_examples
    from sgg_core.spec import OptimizationSpec, TrainingSpec
    from sgg_core.trainer import train

    examples = parse_examples(TOY, "toy.jsonl")
    spec = TrainingSpec(base_model=base.entry.name, optimization=OptimizationSpec(batch_size=2, max_steps=4))
    train(spec, base, examples, output=Path(os.devnull), reporter=StopsSoon(2))
