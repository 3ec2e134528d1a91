"""What a run is compared with: plain LoRA, the base model with examples in its prompt, and what it thinks of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sgg_core.doubts import MOST_EXAMPLES, doubts
from sgg_core.encoding import Encoded
from sgg_core.errors import TrainingDivergedError
from sgg_core.evidence import Doubt
from sgg_core.figures import Evaluation
from sgg_core.gradients import Gradient
from sgg_core.in_context import ask_in_context, wanted_in_context
from sgg_core.plain_rival import train_plainly
from sgg_core.reporting import Control, Notice, Reporter
from sgg_core.run_files import RunFiles
from sgg_core.spec import TrainingSpec
from sgg_core.start import StartingPoint
from sgg_core.task_data import TaskData
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.pooled_head import PooledHead


@dataclass(frozen=True)
class Rivals:
    """Those of a run on `target`, judged by its validation examples."""

    spec: TrainingSpec
    adapted: Any
    target: TaskData
    held_out: Sequence[Encoded]
    files: RunFiles
    start: StartingPoint | None
    reporter: Reporter

    @property
    def want_plain(self) -> bool:
        """Whether a guided run is to be compared with plain LoRA, and can be: example by example."""
        return "plain_lora" in self.spec.evaluation.baselines and bool(self.held_out)

    def train_plainly(self, initial: Gradient) -> tuple[Evaluation | None, Control]:
        """Let plain LoRA run from the target's weights `initial`; afterwards the weights are as they were."""
        try:
            return train_plainly(self.target, self.held_out, initial, self.spec, self.start, self.reporter)
        except TrainingDivergedError as error:
            self.reporter.report(
                Notice(level="warn", message=f"Plain LoRA diverged, so it is not compared with. {error}")
            )
            return None, self.reporter.control()

    def ask_in_context(self) -> tuple[tuple[Evaluation, int] | None, Control]:
        """Let the bare base model answer with examples in its prompt, if that is to be compared; how many it saw."""
        task = self.target.task
        if not wanted_in_context(task, self.spec, task.base.device.type) or self.files.validation is None:
            return None, self.reporter.control()
        with self.adapted.disable_adapter():
            return ask_in_context(task, self.files.training, self.files.validation, self.spec, self.reporter)

    def doubts(self) -> list[Doubt]:
        """What the base model, without the adapter, thinks of the training examples' labels."""
        task, items = self.target.task, self.target.items
        if not isinstance(task, LabelWords | PooledHead) or len(items) > MOST_EXAMPLES:
            return []
        with self.adapted.disable_adapter():
            return doubts(task, items, self.files.training.lines)
