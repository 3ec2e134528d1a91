"""Starting a job from an earlier one's adapter, from a checkpoint, or from an uploaded adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from api.auth import Caller
from api.dependencies import Services
from api.jobs.schemas import Hyperparameters, JobDraft
from api.validation import RequestProblem
from sgg_core.adapter_file import AdapterFacts
from sgg_core.spec import LoraSpec, TrainingSpec
from sgg_store.errors import RecordNotFoundError
from sgg_store.new_jobs import Start
from sgg_store.starting_points import FoundStart, StartingPoints


@dataclass(frozen=True, slots=True)
class Started:
    """A draft that speaks of its base model and its adapter, whatever it starts from; and what it starts from."""

    draft: JobDraft
    start: Start | None
    problems: tuple[RequestProblem, ...] = ()


def with_starting_point(services: Services, caller: Caller, draft: JobDraft) -> Started:
    """Find what the draft starts from, and take its base model and the shape of its adapter over into the draft."""
    from_model = draft.model if draft.model is not None and draft.model.startswith("ft:") else None
    name, param = draft.settings.start_from or from_model, f"{draft.settings_path}start_from"
    if name is None:
        return Started(draft, None)
    if from_model is not None:
        param = "model"
        if draft.settings.start_from is not None:
            message = (
                "`model` already names the weights to start from. Leave start_from out, or name a base model there."
            )
            problem = RequestProblem(f"{draft.settings_path}start_from", "conflicting_parameters", message)
            return Started(draft, None, (problem,))
    try:
        with services.database.read() as session:
            found = StartingPoints(session, caller.project_id).find(name)
    except RecordNotFoundError as error:
        draft = draft if from_model is None else draft.model_copy(update={"model": None})  # which is told already
        return Started(draft, None, (RequestProblem(param, "starting_point_not_found", error.message + _KINDS),))
    return _fitted(draft, found, param, from_model is not None)


_KINDS = (
    " Name a fine-tuned model (ft:...), one of its checkpoints (ft:...:ckpt-step-N or ftckpt_...), or the id of an "
    "uploaded adapter file (.safetensors)."
)


def _fitted(draft: JobDraft, found: FoundStart, param: str, from_model: bool) -> Started:
    problems: list[RequestProblem] = []
    fitting: dict[str, Any] = {}
    if found.job is not None:
        fitting = TrainingSpec.model_validate(found.job.spec).lora.model_dump(include={"rank", "alpha", "targets"})
        if from_model:
            draft = draft.model_copy(update={"model": found.job.base_model})
        elif draft.model not in (None, found.job.base_model):
            message = f"{found.start.name} is an adapter of {found.job.base_model}. Use that as the model."
            problems.append(RequestProblem("model", "invalid_starting_point", message))
    elif found.file is not None:
        facts = found.file.facts or {}
        if facts.get("kind") != "adapter":
            message = f"{found.file.id} is not an adapter. Upload the adapter_model.safetensors of a LoRA adapter."
            return Started(draft, None, (RequestProblem(param, "invalid_starting_point", message),))
        fitting = AdapterFacts.model_validate(facts["adapter"]).lora()
    chosen = draft.settings.hyperparameters.lora.model_dump(exclude_unset=True)
    path = f"{draft.settings_path}hyperparameters.lora"
    for setting in ("rank", "alpha"):
        here, there = chosen.get(setting), fitting.get(setting)
        if here is not None and there is not None and here != there:
            message = f"{found.start.name} has {setting}={there:g}. Leave this out, or set it to {there:g}."
            problems.append(RequestProblem(f"{path}.{setting}", "invalid_starting_point", message))
    if "alpha" not in fitting and "alpha" not in chosen:
        message = "The adapter file does not record its scale. Set this to the lora_alpha in its adapter_config.json."
        problems.append(RequestProblem(f"{path}.alpha", "invalid_value", message))
    lora = LoraSpec.model_validate(fitting | chosen)
    return Started(_with_lora(draft, lora), found.start, tuple(problems))


def _with_lora(draft: JobDraft, lora: LoraSpec) -> JobDraft:
    """The draft with these settings of the adapter, where its method reads them from."""
    settings = draft.settings
    hyperparameters = Hyperparameters.model_validate(
        settings.hyperparameters.model_dump(exclude_unset=True) | {"lora": lora}
    )
    filled = settings.model_copy(update={"hyperparameters": hyperparameters})
    if draft.method is None:
        return draft.model_copy(update={"hyperparameters": hyperparameters})
    return draft.model_copy(update={"method": draft.method.model_copy(update={draft.method_type: filled})})
