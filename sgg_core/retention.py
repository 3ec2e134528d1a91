"""Examples of something else than the task, asked before the first step and after the last one."""

from __future__ import annotations

from sgg_core.backbone import LoadedBase
from sgg_core.catalogue import check_task
from sgg_core.errors import RetentionFileError, SpecError
from sgg_core.evaluation import classifier_evaluation, evaluate
from sgg_core.examples import ExampleSet, check_retention
from sgg_core.figures import Evaluation
from sgg_core.rehearsal import can_judge, cross_validated_scores
from sgg_core.spec import Auto
from sgg_core.tasks.choice import encoded, task_for
from sgg_core.tasks.pooled_head import PooledHead


class RetentionSet:
    """A retention file as a task of its own on the base model, in whatever state that is when it is asked.

    Raises RetentionFileError where the base model cannot be asked such examples.
    """

    def __init__(self, base: LoadedBase, data: ExampleSet, max_tokens: int | Auto) -> None:
        check_retention(data)
        try:
            check_task(base.entry, data.kind)
            self.task = task_for(base, data.kind, data.labels, None, max_tokens)
        except SpecError as error:
            raise RetentionFileError.about(data.filename, error.message, error.remedy) from error
        self.items = encoded(self.task, data)
        if not can_judge(self.task, self.items):
            raise RetentionFileError.about(
                data.filename,
                "Some label has only one example, which cannot be held out.",
                "Add another example of it.",
            )

    def measure(self) -> Evaluation:
        """Figures as the model is now; an encoder, whose head knows other labels, is asked through a probe."""
        if isinstance(self.task, PooledHead):
            scores = cross_validated_scores(self.task, self.items).log_softmax(-1)
            return classifier_evaluation(self.task.labels, self.items, scores)
        return evaluate(self.task, self.items)
