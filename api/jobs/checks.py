"""Whether a request for a job makes sense: everything that is wrong with it, found in one go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from api.auth import Caller
from api.dependencies import Services
from api.files.facts import FileFacts
from api.jobs.schemas import JobDraft, JobIn
from api.validation import RequestProblem, broken_texts, problems_of_model
from sgg_core.catalogue import BaseModelEntry, check_task
from sgg_core.errors import DataError, SpecError, UnknownBaseModelError
from sgg_core.examples import ExampleSet, check_sources, check_training, check_validation
from sgg_store.errors import RecordNotFoundError
from sgg_store.files import Files
from sgg_store.records import FileRecord


def read_draft(body: dict[str, Any]) -> tuple[JobDraft, list[RequestProblem]]:
    """Read what can be read of the body, and describe the rest."""
    problems = broken_texts(body)
    named = {problem.param for problem in problems}
    refused: set[tuple[int | str, ...]] = {(name,) for name, value in body.items() if broken_texts({name: value})}
    try:
        draft = JobIn.model_validate(body)
        if not problems:
            return draft, []
    except ValidationError as error:
        refused |= {entry["loc"][:1] for entry in error.errors()}  # () is the body as a whole
        problems += [problem for problem in problems_of_model(error, JobIn) if problem.param not in named]
    readable = {name: value for name, value in body.items() if not refused & {(), (name,)}}
    return JobDraft.model_validate(readable), problems


def check_settings(draft: JobDraft) -> Iterator[RequestProblem]:
    """Yield what is wrong with the settings taken together, without looking at any file."""
    path, settings = draft.settings_path, draft.settings
    hyperparameters = settings.hyperparameters
    other = "supervised" if draft.method_type == "sgg" else "sgg"
    if draft.method is not None and getattr(draft.method, other) is not None:
        message = f"The method is {draft.method_type!r}, so settings under {other!r} have no effect. Leave them out."
        yield RequestProblem(f"method.{other}", "conflicting_parameters", message)
    if draft.method_type != "sgg":
        use_sgg = "has an effect with the method 'sgg' only. Use that method, or leave it out."
        if settings.sources:
            yield RequestProblem(f"{path}sources", "conflicting_parameters", f"It {use_sgg}")
        if hyperparameters.guidance is not None:
            yield RequestProblem(f"{path}hyperparameters.guidance", "conflicting_parameters", f"It {use_sgg}")
    elif hyperparameters.guidance is not None and hyperparameters.guidance.alignment > 0 and not settings.sources:
        message = "Alignment needs source files. Name some in method.sgg.sources, or set it to 0."
        yield RequestProblem(f"{path}hyperparameters.guidance.alignment", "conflicting_parameters", message)
    if draft.validation_file is None:
        wanted = {"patience": hyperparameters.evaluation.patience is not None}
        wanted["keep"] = hyperparameters.evaluation.keep == "best"
        for name in (name for name, set_ in wanted.items() if set_):
            message = "This needs a validation file. Name one in validation_file, or leave this out."
            yield RequestProblem(f"{path}hyperparameters.evaluation.{name}", "conflicting_parameters", message)
    if draft.integrations:
        message = "There are no integrations here; figures are in the job's events and result files. Leave this out."
        yield RequestProblem("integrations", "unsupported_parameter", message)


class DataChecks:
    """The checks that need the base model's entry and the files. Collects `problems`."""

    def __init__(self, services: Services, caller: Caller, draft: JobDraft) -> None:
        self.services = services
        self.caller = caller
        self.draft = draft
        self.problems: list[RequestProblem] = []

    def run(self) -> list[RequestProblem]:
        """Check the base model, that all files are the caller's, and that they fit together."""
        entry = self._base_model()
        draft = self.draft
        training_file = self._file("training_file", draft.training_file)
        validation_file = self._file("validation_file", draft.validation_file)
        sources_param = f"{draft.settings_path}sources"
        source_files = [self._file(sources_param, file_id) for file_id in draft.settings.sources]
        if training_file is None:
            return self.problems
        training = self._examples("training_file", training_file)
        if training is None:
            return self.problems
        self._check_training(training, entry)
        if validation_file is not None:
            self._check_other("validation_file", training, validation_file)
        for source_file in source_files:
            if source_file is not None:
                self._check_other(sources_param, training, source_file)
        return self.problems

    def _base_model(self) -> BaseModelEntry | None:
        if self.draft.model is None:
            return None
        try:
            return self.services.catalogue().get(self.draft.model)
        except UnknownBaseModelError as error:
            self.problems.append(RequestProblem("model", error.code, str(error)))
            return None

    def _file(self, param: str, file_id: str | None) -> FileRecord | None:
        if file_id is None:
            return None
        try:
            with self.services.database.read() as session:
                record = Files(session).get(self.caller.project_id, file_id)
        except RecordNotFoundError as error:
            message = f"{error.message} Upload the file first, and use the id that the answer gives."
            self.problems.append(RequestProblem(param, "file_not_found", message))
            return None
        if record.purpose != "fine-tune":
            message = f"{file_id} is a result ({record.purpose}), not a file of examples. Use an uploaded file."
            self.problems.append(RequestProblem(param, "invalid_file", message))
            return None
        return record

    def _examples(self, param: str, record: FileRecord) -> ExampleSet | None:
        if record.facts is None:
            message = f"{record.id} was never inspected. Upload it again, and use the id that the answer gives."
            self.problems.append(RequestProblem(param, "invalid_file", message))
            return None
        return FileFacts.model_validate(record.facts).representatives(record.filename)

    def _check_training(self, training: ExampleSet, entry: BaseModelEntry | None) -> None:
        try:
            check_training(training)
        except DataError as error:
            self.problems.append(RequestProblem("training_file", error.code, str(error)))
        if entry is not None:
            try:
                check_task(entry, training.kind)
            except SpecError as error:
                self.problems.append(RequestProblem("model", "unsupported_task", str(error)))
        asked = self.draft.settings.hyperparameters.task.type
        if asked not in ("auto", training.kind):
            message = f"The training file holds {training.kind} examples, not {asked}. Leave it out, or set it to that."
            param = f"{self.draft.settings_path}hyperparameters.task.type"
            self.problems.append(RequestProblem(param, "invalid_value", message))

    def _check_other(self, param: str, training: ExampleSet, record: FileRecord) -> None:
        other = self._examples(param, record)
        if other is None:
            return
        try:
            if param == "validation_file":
                check_validation(training, other)
            else:
                check_sources(training, [other])
        except DataError as error:
            self.problems.append(RequestProblem(param, error.code, str(error)))
