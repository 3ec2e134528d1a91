"""From a trial to its answer, on a base model that is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sgg_core import encoding
from sgg_core.backbone import LoadedBase
from sgg_core.base_loading import default_device
from sgg_core.errors import DataError, SpecError
from sgg_core.evaluation import log_probabilities
from sgg_core.examples import STORED_LIMITS, parse_examples
from sgg_core.generation import write
from sgg_core.preview import preview
from sgg_core.shapes import ClassificationExample
from sgg_core.shelf import Fitted
from sgg_core.survey import survey
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.trials import (
    ChatTrial,
    ClassificationTrial,
    CompletionTrial,
    GivenLabels,
    Preview,
    PreviewTrial,
    Survey,
    SurveyTrial,
    Trial,
    TrialAnswer,
    TrialError,
    WrongEndpointError,
)

ENDPOINTS = {
    "classification": "/v1/classifications",
    "chat": "/v1/chat/completions",
    "completion": "/v1/completions",
}
LONGEST_PROMPT = 512  # tokens, of a classification on a bare base model


def answer(base: LoadedBase, fitted: Fitted | None, trial: Trial, data: Path | None = None) -> Iterator[TrialAnswer]:
    """Yield the answer: a text longer and longer, all else at once. `data` holds the files that a trial is about.

    Raises WrongEndpointError if the adapter was trained for another kind of question, TrialError for labels or
    messages that the base model cannot take, ContextLengthError.
    """
    if isinstance(trial, PreviewTrial | SurveyTrial):
        assert data is not None
        yield _look_ahead(base, trial, data)
        return
    if fitted is not None and trial.type not in fitted.kinds:
        paths = " or ".join(ENDPOINTS[kind] for kind in fitted.kinds)
        raise WrongEndpointError(
            f"The model was trained on {fitted.kinds[0]} examples.", f"Ask it through {paths}.", param="model"
        )
    if isinstance(trial, ClassificationTrial):
        yield _labels(_classifier(base, fitted, trial), trial)
    else:
        yield from write(base, encoding.token_ids(base.tokenizer, _prompt(base, trial)), trial.sampling)


def _look_ahead(base: LoadedBase, trial: PreviewTrial | SurveyTrial, data: Path) -> Preview | Survey:
    if isinstance(trial, SurveyTrial):
        device = default_device().type  # trials may be answered on another one
        return survey(trial.spec, base, trial.filenames, lambda role: (data / role).read_bytes(), device)
    try:
        examples = parse_examples((data / "training").read_bytes(), trial.filename, STORED_LIMITS)
        return preview(trial.spec, base, examples, trial.limit)
    except DataError as error:
        raise TrialError(str(error), param="training_file") from error
    except SpecError as error:
        raise TrialError(error.message, error.remedy, param="method") from error


def _classifier(base: LoadedBase, fitted: Fitted | None, trial: ClassificationTrial) -> LabelWords | PooledHead:
    if fitted is not None:
        assert isinstance(fitted.task, LabelWords | PooledHead)
        if isinstance(fitted.task, LabelWords) and not fitted.task.keeps_prefix:
            fitted.task.keep_prefix()
        return fitted.task
    try:
        return LabelWords(base, trial.labels, trial.description, LONGEST_PROMPT)
    except SpecError as error:
        message = error.message.removeprefix("task.max_tokens: ")
        raise TrialError(message[:1].upper() + message[1:], "Give fewer or shorter labels.", param="labels") from error


def _labels(task: LabelWords | PooledHead, trial: ClassificationTrial) -> GivenLabels:
    items = task.encode([ClassificationExample(each.text, "", each.text_pair) for each in trial.inputs])
    probabilities = log_probabilities(task, items).exp().tolist()
    return GivenLabels(
        labels=task.labels,
        probabilities=tuple(tuple(row) for row in probabilities),
        prompt_tokens=sum(len(item.ids) for item in items),
    )


def _prompt(base: LoadedBase, trial: ChatTrial | CompletionTrial) -> str:
    if isinstance(trial, CompletionTrial):
        return encoding.completion_prompt(base.tokenizer, trial.prompt)
    turns = [{"role": turn.role, "content": turn.content} for turn in trial.messages]
    try:
        return encoding.rendered(base.tokenizer, turns, for_answer=True)
    except ValueError as error:
        raise TrialError(
            f"{error}.", "Begin with a user message, then alternate the roles.", param="messages"
        ) from error
