"""Whether a request for a job makes sense: everything that is wrong with it, found in one go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from api.auth import Caller
from api.dependencies import Services
from api.files.facts import FileFacts
from api.jobs.schemas import OPENAIS_OTHERS, JobDraft, JobIn
from api.validation import RequestProblem, broken_texts, problems_of_model
from sgg_core.catalogue import BaseModelEntry, check_objective, check_task
from sgg_core.errors import DataError, RetentionFileError, SpecError, UnknownBaseModelError
from sgg_core.examples import ExampleSet, check_retention, check_sources, check_training, check_validation
from sgg_core.folds import fold_problem
from sgg_core.lineup import check_steps
from sgg_core.shapes import Kind
from sgg_store.errors import RecordNotFoundError
from sgg_store.files import Files
from sgg_store.records import FileRecord


def read_draft(body: dict[str, Any]) -> tuple[JobDraft, list[RequestProblem]]:
    """Read what can be read of the body, and describe the rest."""
    unsupported = list(_unsupported_method(body))
    problems = [*broken_texts(body), *unsupported]
    named = {problem.param for problem in problems} | ({"method.dpo", "method.reinforcement"} if unsupported else set())
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
    if draft.method_type == "sgg" and draft.hyperparameters is not None and draft.hyperparameters.model_fields_set:
        message = "It has no effect with the method 'sgg'. Move it into method.sgg.hyperparameters, or leave it out."
        yield RequestProblem("hyperparameters", "conflicting_parameters", message)
    if draft.method_type != "sgg":
        use_sgg = "has an effect with the method 'sgg' only. Use that method, or leave it out."
        if settings.sources:
            yield RequestProblem(f"{path}sources", "conflicting_parameters", f"It {use_sgg}")
        if hyperparameters.guidance is not None:
            yield RequestProblem(f"{path}hyperparameters.guidance", "conflicting_parameters", f"It {use_sgg}")
    elif hyperparameters.guidance is not None and hyperparameters.guidance.alignment > 0 and not settings.sources:
        message = "Alignment needs source files. Name some in method.sgg.sources, or set it to 0."
        yield RequestProblem(f"{path}hyperparameters.guidance.alignment", "conflicting_parameters", message)
    elif hyperparameters.guidance is not None and hyperparameters.guidance.variant == "off" and settings.sources:
        message = "Sources have no effect when guidance.variant is 'off'. Leave them out, or use another variant."
        yield RequestProblem(f"{path}sources", "conflicting_parameters", message)
    if draft.validation_file is None:
        wanted = {
            "evaluation.patience": hyperparameters.evaluation.patience is not None,
            "evaluation.keep": hyperparameters.evaluation.keep == "best",
            "learning_rate": len(hyperparameters.learning_rates) > 1 and hyperparameters.folds is None,
        }
        for name in (name for name, set_ in wanted.items() if set_):
            instead = "set folds" if name == "learning_rate" else "leave this out"
            message = f"This needs a validation file. Name one in validation_file, or {instead}."
            yield RequestProblem(f"{path}hyperparameters.{name}", "conflicting_parameters", message)
    if draft.integrations:
        message = "Integrations are not supported; figures are in the job's events and result files. Leave this out."
        yield RequestProblem("integrations", "unsupported_parameter", message)


def _unsupported_method(body: dict[str, Any]) -> Iterator[RequestProblem]:
    """Yield it where a method of OpenAI's is asked for that nobody here can run."""
    method = body.get("method")
    asked = method.get("type") if isinstance(method, dict) else None
    if asked in OPENAIS_OTHERS:
        message = (
            f"Jobs of the method {asked!r} are not offered. Supported are 'supervised' (plain LoRA) and 'sgg' (LoRA "
            "with structured gradient guidance), both on labelled examples, completions or chats."
        )
        yield RequestProblem("method.type", "unsupported_method", message)


class DataChecks:
    """The checks that need the base model's entry and the files. Collects `problems`, and what it has looked up.

    `files` are those that exist, by role as in SurveyTrial; `in_files` are those of the problems that files have.
    `kind` is what the training file holds; None if there is no such file.
    """

    def __init__(self, services: Services, caller: Caller, draft: JobDraft) -> None:
        self.services = services
        self.caller = caller
        self.draft = draft
        self.problems: list[RequestProblem] = []
        self.entry: BaseModelEntry | None = None
        self.kind: Kind | None = None
        self.files: dict[str, FileRecord] = {}
        self.in_files: list[tuple[RequestProblem, FileRecord, DataError]] = []

    def run(self) -> list[RequestProblem]:
        """Check the base model, that all files are the caller's, and that they fit together."""
        self.entry = entry = self._base_model()
        draft = self.draft
        training_file = self._file("training_file", draft.training_file, "training")
        validation_file = self._file("validation_file", draft.validation_file, "validation")
        sources_param = f"{draft.settings_path}sources"
        named = enumerate(draft.settings.sources)
        source_files = [self._file(sources_param, file_id, f"source{number}") for number, file_id in named]
        retention_param = f"{draft.settings_path}retention_file"
        retention_file = self._file(retention_param, draft.settings.retention_file, "retention")
        if retention_file is not None:
            self._check_retention(retention_param, retention_file)
        if training_file is None:
            return self.problems
        training = self._examples("training_file", training_file)
        if training is None:
            return self.problems
        self.kind = training.kind
        self._check_training(training_file, training, entry)
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

    def _file(self, param: str, file_id: str | None, role: str) -> FileRecord | None:
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
        if (record.facts or {}).get("kind") == "adapter":
            message = f"{file_id} is an adapter, not a file of examples. Name it in start_from instead."
            self.problems.append(RequestProblem(param, "invalid_file", message))
            return None
        self.files[role] = record
        return record

    def _examples(self, param: str, record: FileRecord) -> ExampleSet | None:
        if record.facts is None:
            message = f"{record.id} was never inspected. Upload it again, and use the id that the answer gives."
            self.problems.append(RequestProblem(param, "invalid_file", message))
            return None
        return FileFacts.model_validate(record.facts).representatives(record.filename)

    def _note(self, param: str, record: FileRecord, error: DataError) -> None:
        problem = RequestProblem(param, error.code, str(error))
        self.problems.append(problem)
        self.in_files.append((problem, record, error))

    def _check_folds(self, record: FileRecord) -> None:
        folds = self.draft.settings.hyperparameters.folds
        if folds is None:
            return
        facts = FileFacts.model_validate(record.facts)
        if (problem := fold_problem(facts.label_counts, facts.examples, folds)) is not None:
            self._note("training_file", record, DataError(record.filename, (problem,)))

    def _check_training(self, record: FileRecord, training: ExampleSet, entry: BaseModelEntry | None) -> None:
        try:
            check_training(training)
        except DataError as error:
            self._note("training_file", record, error)
        self._check_folds(record)
        if entry is not None:
            try:
                check_task(entry, training.kind)
            except SpecError as error:
                self.problems.append(RequestProblem("model", "unsupported_task", str(error)))
            try:
                wanted = self.draft.settings.hyperparameters
                check_objective(entry, wanted.task.objective, wanted.balanced_batches)
            except SpecError as error:
                param = f"{self.draft.settings_path}hyperparameters.task.objective"
                self.problems.append(RequestProblem(param, "invalid_value", str(error)))
            self._check_steps(record, entry)
        asked = self.draft.settings.hyperparameters.task.type
        if asked not in ("auto", training.kind):
            message = f"The training file holds {training.kind} examples, not {asked}. Leave this out, or correct it."
            param = f"{self.draft.settings_path}hyperparameters.task.type"
            self.problems.append(RequestProblem(param, "invalid_value", message))

    def _check_steps(self, record: FileRecord, entry: BaseModelEntry) -> None:
        facts = FileFacts.model_validate(record.facts)
        try:
            check_steps(self.draft.training_spec(0), entry.kind, *facts.sizes)
        except SpecError as error:
            param = f"{self.draft.settings_path}hyperparameters.n_epochs"
            self.problems.append(RequestProblem(param, "invalid_value", str(error)))

    def _check_retention(self, param: str, record: FileRecord) -> None:
        examples = self._examples(param, record)
        if examples is None or self.entry is None:
            return
        try:
            check_retention(examples)
            check_task(self.entry, examples.kind)
        except DataError as error:
            self._note(param, record, error)
        except SpecError as error:
            self._note(param, record, RetentionFileError.about(record.filename, error.message, error.remedy))

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
            self._note(param, record, error)
