"""Fine-tuning jobs in requests and answers. The groups of hyperparameters are the training spec's own classes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from api.schemas import Identified, Out
from sgg_core.shapes import Kind
from sgg_core.spec import (
    Auto,
    CheckpointSpec,
    EvaluationSpec,
    GuidanceSpec,
    LoraSpec,
    OptimizationSpec,
    ResourcesSpec,
    TaskSpec,
    TrainingSpec,
)

EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "A page of events, or a stream of them.", "content": {"text/event-stream": {}}},
    204: {"description": "The stream is at its end: the job has ended, and `Last-Event-ID` is its last event."},
}

REPORT_FORMATS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The report.", "content": {"text/markdown": {}, "text/html": {}}},
}

MethodType = Literal["supervised", "sgg"]
FileId = Annotated[str, Field(min_length=1, max_length=100)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class Hyperparameters(OptimizationSpec):
    """OpenAI's three hyperparameters, the other ones of the optimizer, and the further groups of the training spec."""

    model_config = ConfigDict(
        serialize_by_alias=True, alias_generator=lambda name: "n_epochs" if name == "epochs" else name
    )

    task: TaskSpec = TaskSpec()
    lora: LoraSpec = LoraSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    resources: ResourcesSpec = ResourcesSpec()
    guidance: GuidanceSpec | None = None
    """For the method `sgg` only."""

    @classmethod
    def of(cls, spec: TrainingSpec) -> Hyperparameters:
        """Give those of a training spec, with all defaults filled in."""
        optimization = spec.optimization.model_dump()
        values = {"n_epochs" if name == "epochs" else name: value for name, value in optimization.items()}
        guidance = spec.guidance if spec.method == "sgg" else None
        groups = {name: getattr(spec, name) for name in ("task", "lora", "evaluation", "checkpoint", "resources")}
        return cls.model_validate({**values, **groups, "guidance": guidance})

    def optimization(self) -> OptimizationSpec:
        """Give the optimizer's group of the training spec."""
        return OptimizationSpec.model_validate({name: getattr(self, name) for name in OptimizationSpec.model_fields})

    @model_serializer(mode="wrap")
    def _without_absent_guidance(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return values if self.guidance is not None else {k: v for k, v in values.items() if k != "guidance"}


class MethodSettings(BaseModel):
    """What a method is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hyperparameters: Hyperparameters = Field(default_factory=lambda: Hyperparameters.model_validate({}))
    sources: Annotated[tuple[FileId, ...], Field(max_length=16)] = ()
    """Files of related examples whose gradients help; for the method `sgg` only."""
    retention_file: FileId | None = None
    """File of examples of something else, never trained on: the report tells what is forgotten of it."""
    start_from: Annotated[str, Field(min_length=1, max_length=250)] | None = None
    """Weights to begin with: a fine-tuned model, a checkpoint by name or id, or the id of an uploaded adapter file."""
    priority: Annotated[int, Field(ge=-10, le=10)] = 0
    """Jobs of higher priority begin first. More than 0 needs a key with the scope `admin`."""


class Method(BaseModel):
    """The method and its settings, which stand under the method's own name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    type: MethodType
    """`supervised` is plain LoRA, `sgg` adds structured gradient guidance."""
    supervised: MethodSettings | None = None
    sgg: MethodSettings | None = None

    @model_serializer(mode="wrap")
    def _without_the_other_method(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class JobDraft(BaseModel):
    """The parts of a request for a job that could be read. None where a part is absent, or was refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    training_file: FileId | None = None
    validation_file: FileId | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Part of the fine-tuned model's name."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Drawn by the server if it is left out, and told in the job."""
    method: Method | None = None
    """Plain `supervised` if it is left out."""
    hyperparameters: Hyperparameters | None = None
    """The older place for those of `supervised`; `method` wins over it."""
    integrations: list[dict[str, Any]] | None = None
    """Must be empty: there are none here."""
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None

    @property
    def method_type(self) -> MethodType:
        """The method that is asked for."""
        return self.method.type if self.method else "supervised"

    @property
    def settings_path(self) -> str:
        """Where in the request the method's settings stand."""
        return f"method.{self.method_type}." if self.method else ""

    @property
    def settings(self) -> MethodSettings:
        """The settings of the method that is asked for."""
        if self.method is None:
            return MethodSettings(hyperparameters=self.hyperparameters) if self.hyperparameters else MethodSettings()
        return (self.method.sgg if self.method.type == "sgg" else self.method.supervised) or MethodSettings()

    def training_spec(self, seed: int) -> TrainingSpec:
        """Translate into what the trainer is told. Needs a base model."""
        hyperparameters = self.settings.hyperparameters
        return TrainingSpec(
            base_model=self.model or "",
            method=self.method_type,
            task=hyperparameters.task,
            lora=hyperparameters.lora,
            optimization=hyperparameters.optimization(),
            guidance=hyperparameters.guidance or GuidanceSpec(),
            evaluation=hyperparameters.evaluation,
            checkpoint=hyperparameters.checkpoint,
            resources=hyperparameters.resources,
            seed=seed,
        )


class JobIn(JobDraft):
    """A request for a job."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    """Name of a base model in the catalogue; or of a fine-tuned model or checkpoint, to train that on."""
    training_file: FileId
    """Id of an uploaded file."""


class JobErrorOut(Out):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class HyperparametersOut(Out):
    """OpenAI's three hyperparameters; all others stand in `method`."""

    n_epochs: int | Auto
    batch_size: int | Auto
    learning_rate_multiplier: float | Auto


class FailureOut(Out):
    """Why a job failed, and who can do something about it."""

    code: str
    fault: Literal["user", "service"]
    """`user`: the data or the settings; `service`: the machine, the workers, the storage."""
    remedy: str


class ArtifactOut(Out):
    """A result file; download it through /v1/files/{file_id}/content."""

    file_id: str
    filename: str
    bytes: int
    sha256: str


class LastCheckpointOut(Out):
    """A checkpoint by its id and by the name of the model as it was then."""

    id: str
    name: str
    step: int


class AttemptOut(Out):
    """One worker's try at the job."""

    number: int
    """Counts from 1."""
    state: Literal["running", "succeeded", "failed", "cancelled", "lost", "preempted", "paused"]
    cause: str | None
    """Why it ended without a result, in one word."""
    started_at: int
    seconds: float
    """How long it took, or has taken so far."""
    first_step: int
    last_step: int


class SpreadOut(Out):
    """A time in Unix seconds: in one of ten cases it is before `early`, in one of ten after `late`."""

    early: int
    likely: int
    late: int


class ForecastOut(Out):
    """From measured steps, the jobs ahead, and how long such jobs took before. Null where nothing was measured yet."""

    start: SpreadOut | None
    """Null unless the job is queued."""
    end: SpreadOut | None


class SggJobOut(Out):
    """What this server knows of a job beyond OpenAI's fields."""

    kind: Kind | None
    """Of the training file; null once that file is deleted."""
    suffix: str | None
    """As it was asked for; a part of the model's name."""
    queue_position: int | None
    """1 is next; null unless the job is queued."""
    workers: int | None
    """How many workers there are to take it; null unless the job is queued."""
    step: int
    total_steps: int | None
    progress: float
    """0 to 1."""
    metrics: dict[str, float | int | bool | None]
    """The newest figures of a step, and the newest of an evaluation. Of a succeeded job, losses and accuracies are
    those of the run that was kept: of its last step, and by its weights."""
    attempts: int
    """How many times a worker took the job."""
    attempt_history: list[AttemptOut] | None
    """First to last; null in lists of jobs."""
    forecast: ForecastOut | None
    """Null in lists of jobs, and unless the job is queued or running."""
    cancel_requested: bool
    pause_requested: bool
    """The job is running and stops before its next step."""
    last_checkpoint: LastCheckpointOut | None
    """The newest one, which a paused job goes on from, and which a cancelled job leaves."""
    sources: list[str]
    failure: FailureOut | None
    artifacts: list[ArtifactOut]


class JobOut(Identified):
    """A fine-tuning job."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    model: str
    created_at: int
    finished_at: int | None
    fine_tuned_model: str | None
    organization_id: str
    result_files: list[str]
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
    """`paused`, which OpenAI's schema does not list, appears after a pause alone."""
    validation_file: str | None
    training_file: str
    hyperparameters: HyperparametersOut
    trained_tokens: int | None
    error: JobErrorOut | None
    integrations: tuple[()] = ()
    seed: int
    estimated_finish: int | None
    method: Method
    metadata: dict[str, str]
    sgg: SggJobOut


class EventOut(Identified):
    """One event of a job."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class SggCheckpointOut(Out):
    """What this server knows of a checkpoint beyond OpenAI's fields."""

    files: list[ArtifactOut]
    """The weights and the configuration with which PEFT loads them."""


class CheckpointOut(Identified):
    """One checkpoint of a job."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float | int | None]
    sgg: SggCheckpointOut


class SeriesOut(Out):
    """One figure over the steps. The lists are equally long; `low` and `high` bound what a point is the mean of."""

    name: str
    steps: list[int]
    """The last step of each point."""
    values: list[float]
    low: list[float]
    high: list[float]


class MetricsOut(Out):
    """Figures of a job."""

    object: Literal["fine_tuning.job.metrics"] = "fine_tuning.job.metrics"
    job_id: str
    from_step: int
    to_step: int
    steps_per_point: int
    """1 unless there are more steps than the resolution allows."""
    data: list[SeriesOut]
