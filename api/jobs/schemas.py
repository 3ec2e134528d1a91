"""Fine-tuning jobs in requests. The groups of hyperparameters are the training spec's own classes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from sgg_core.spec import (
    CheckpointSpec,
    EvaluationSpec,
    GuidanceSpec,
    LoraSpec,
    OptimizationSpec,
    ResourcesSpec,
    TaskSpec,
    TrainingSpec,
)

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


OPENAIS_OTHERS = ("dpo", "reinforcement")


class Method(BaseModel):
    """The method and its settings, which stand under the method's own name."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    type: MethodType
    """`supervised` is plain LoRA, `sgg` adds structured gradient guidance."""
    supervised: MethodSettings | None = None
    sgg: MethodSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_methods_that_are_null(cls, given: Any) -> Any:
        """OpenAI's clients write so of a job that they read those methods which it has not."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None or name not in OPENAIS_OTHERS}

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
    """The older place for those of `supervised`; `method` wins over it, and with `sgg` it is refused."""
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
