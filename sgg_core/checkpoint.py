"""The full training state on disk, so that a killed run goes on as if nothing had happened. No pickle.

A checkpoint directory holds adapter_model.safetensors and adapter_config.json (trainable weights under PEFT's names,
and what PEFT needs to load them), state.safetensors (optimizer moments
and guidance vectors), state.json (scalars, and the messages so far) and sha256.json (the hashes of these three).
Batches, schedule and dropout are functions of (seed, step) and need no state. On one CPU thread a resumed run ends
bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from sgg_core.adapter_file import ADAPTER, AdapterMetadata, canonical
from sgg_core.errors import CheckpointError
from sgg_core.figures import Evaluation
from sgg_core.files import sha256_of, whole_directory
from sgg_core.gradients import Gradient, Vector
from sgg_core.guidance.step import GuidedState, GuidedStep
from sgg_core.identity import RunIdentity
from sgg_core.plan import Plan
from sgg_core.reporting import AnyMessage, EvaluationMetrics, StepMetrics, checkpoint_name
from sgg_core.trained import Trained

TENSORS = "state.safetensors"
SCALARS = "state.json"
HASHES = "sha256.json"
MOMENTS = ("exp_avg", "exp_avg_sq")  # that AdamW keeps


class Progress(BaseModel):
    """Scalars of a run after `step` steps, and what it reported so far (step and evaluation messages)."""

    step: int = 0
    prepared: bool = False  # whether nothing is left to do before the first step
    trained_tokens: int = 0
    seconds: float = 0.0
    path_length: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    baseline: Evaluation | None = None  # the validation set before the first step
    in_context: Evaluation | None = None  # the same set, by the base model with examples in its prompt
    examples_shown: int = 0  # in that prompt
    retention: Evaluation | None = None  # the retention file before the first step
    plain: Evaluation | None = None  # the validation set, by plain LoRA after as many steps
    history: list[AnyMessage] = []
    layer_cosines: dict[str, tuple[int, float]] = {}  # of sources: number and sum by layer
    kinship: list[list[float]] | None = None  # of labels, as found before the first step; [] is none

    def add_layer_cosines(self, cosines: Mapping[str, float]) -> None:
        """Take in a step's source cosines by layer."""
        for layer, cosine in cosines.items():
            count, total = self.layer_cosines.get(layer, (0, 0.0))
            self.layer_cosines[layer] = (count + 1, total + cosine)

    def newest_figures(self) -> dict[str, float]:
        """The newest value of every figure in the history, under the names that the API gives checkpoints' metrics.

        Those of the validation examples only if they were looked at after this very step.
        """
        figures: dict[str, float] = {"step": self.step}
        for message in self.history:
            if isinstance(message, StepMetrics):
                figures |= {"train_loss": message.train_loss, "train_mean_token_accuracy": message.train_accuracy}
                figures["gradient_norm"] = message.gradient_norm
                if message.reference_cosine is not None:
                    figures["reference_cosine"] = message.reference_cosine
                if message.source_cosine is not None:
                    figures["source_cosine"] = message.source_cosine
            elif isinstance(message, EvaluationMetrics) and message.step == self.step:
                # every evaluation is of the whole file, so OpenAI's figure of a batch is the same one
                figures["valid_loss"] = figures["full_valid_loss"] = message.valid_loss
                if message.valid_accuracy is not None:
                    figures["valid_mean_token_accuracy"] = message.valid_accuracy
                    figures["full_valid_mean_token_accuracy"] = message.valid_accuracy
        return figures

    def layer_cosine_means(self) -> dict[str, float]:
        """Mean source cosine by layer over the steps that saw a source."""
        return {layer: total / count for layer, (count, total) in self.layer_cosines.items()}


@dataclass
class RunState:
    """Where a run stands, beside what it trains: its progress, and all its parameters at first and at their best.

    It keeps to the plan that it began with, even if `auto` means something else in the release under which it goes on.
    """

    plan: Plan
    progress: Progress
    initial: Gradient
    best: Gradient | None = None


class SavedScalars(BaseModel):
    """Content of state.json."""

    identity: RunIdentity
    plan: Plan | None = None  # which older checkpoints have not
    progress: Progress
    reference_updates: int
    clip: tuple[int, float, float] | None
    agreements: dict[int, list[tuple[int, float]]] = {}  # by source, one for each part of the gradient
    trust: dict[int, float] = {}
    optimizer_steps: dict[str, float]  # by parameter: a source task's head steps only when it is its turn


def save_checkpoint(
    directory: Path,
    identity: RunIdentity,
    state: RunState,
    trained: Trained,
    guided: GuidedStep,
    metadata: AdapterMetadata,
    describe: Callable[[Path], object],
) -> Path:
    """Write the state after so many steps below `directory`; the result appears whole or not at all.

    Its weights are an adapter file with `metadata`, which another run can start from; `describe` writes PEFT's
    configuration beside it.
    """
    progress, parameters = state.progress, trained.parameters
    target = directory / checkpoint_name(progress.step, progress.plain is not None)
    tensors: dict[str, Tensor] = {}
    names = list(parameters)
    steps: dict[str, float] = {}
    states = _states(trained)
    for name, parameter in parameters.items():
        if own := states.get(parameter):
            tensors |= {f"{moment}.{name}": own[moment] for moment in MOMENTS}
            steps[name] = float(own["step"])
    guidance = guided.state()
    for prefix, vector in {**guidance.vectors, "initial": state.initial, "best": state.best or []}.items():
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in zip(names, vector, strict=False)}
    scalars = SavedScalars(
        identity=identity,
        plan=state.plan,
        progress=progress,
        reference_updates=guidance.reference_updates,
        clip=guidance.clip,
        agreements=guidance.agreements,
        trust=guidance.trust,
        optimizer_steps=steps,
    )
    with whole_directory(target) as work:
        # written as bytes, since safetensors' own writer hides a full disk's error number
        weights = {canonical(name): parameter.detach().contiguous() for name, parameter in parameters.items()}
        describe(work)
        (work / ADAPTER).write_bytes(save(weights, metadata.for_file()))
        (work / TENSORS).write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}))
        (work / SCALARS).write_text(scalars.model_dump_json(), encoding="utf-8")
        seal(work)
    return target


def load_checkpoint(
    directory: Path,
    identity: RunIdentity,
    plan: Plan,
    trained: Trained,
    guided: GuidedStep,
) -> RunState:
    """Put what is trained, and guidance, back to where they were saved; returns where the run stood.

    `plan` is for checkpoints that do not say what theirs was.
    Raises CheckpointError where the directory is damaged or belongs to another run.
    """
    parameters = trained.parameters
    try:
        check_seal(directory)
        scalars = SavedScalars.model_validate_json((directory / SCALARS).read_bytes())
        weights = {canonical(name): tensor for name, tensor in load_file(directory / ADAPTER).items()}
        tensors = load_file(directory / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"Checkpoint {directory.name} cannot be read: {error}", "Use an earlier one.") from error
    others = scalars.identity.differences(identity)
    others += [] if set(weights) == set(map(canonical, parameters)) else ["the names of the weights"]
    if others:
        raise CheckpointError(
            f"Checkpoint {directory.name} belongs to another run. These differ: {', '.join(others)}.",
            "Resume with the same spec, data and base model.",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[canonical(name)])
    states: dict[Tensor, dict[str, Tensor]] = {
        parameter: {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
        | {"step": torch.tensor(scalars.optimizer_steps[name])}
        for name, parameter in parameters.items()
        if name in scalars.optimizer_steps
    }
    trained.optimizer.state.update(_gathered(states, trained))

    def vector(prefix: str) -> list[Tensor]:
        found = [tensors.get(f"{prefix}.{name}") for name in parameters]
        device = next(iter(parameters.values())).device
        return [tensor.to(device) for tensor in found if tensor is not None]

    def whole(prefix: str) -> Sequence[Tensor]:
        found = vector(prefix)
        return Vector.of(found) if found else ()

    initial = whole("initial")
    origin = whole("origin") or initial[: len(guided.parameters)]  # which older checkpoints have not
    guided.restore(
        GuidedState(
            vectors={"reference": whole("reference"), "previous": whole("previous"), "origin": origin},
            reference_updates=scalars.reference_updates,
            clip=scalars.clip,
            agreements=scalars.agreements,
            trust=scalars.trust,
        )
    )
    return RunState(scalars.plan or plan, scalars.progress, initial, whole("best") or None)


def _states(trained: Trained) -> dict[Tensor, dict[str, Tensor]]:
    """What the optimizer keeps of each parameter, the adapter's one by one."""
    states: dict[Tensor, dict[str, Tensor]] = dict(trained.optimizer.state)
    adapter = trained.adapter
    if adapter is not None and (whole := states.pop(adapter.flat, None)):
        moments = [Vector(whole[moment], adapter.shapes) for moment in MOMENTS]
        for parameter, *own in zip(adapter.parameters, *moments, strict=True):
            states[parameter] = dict(zip(MOMENTS, own, strict=True)) | {"step": whole["step"]}
    return states


def _gathered(states: dict[Tensor, dict[str, Tensor]], trained: Trained) -> dict[Tensor, dict[str, Tensor]]:
    """The same, as the optimizer has the adapter."""
    adapter = trained.adapter
    moved = {id(tensor) for group in trained.optimizer.param_groups for tensor in group["params"]}
    if adapter is None or id(adapter.flat) not in moved or adapter.parameters[0] not in states:
        return states
    own = [states.pop(parameter) for parameter in adapter.parameters]
    whole = {moment: Vector.of([state[moment] for state in own]).flat for moment in MOMENTS}
    return states | {adapter.flat: whole | {"step": own[0]["step"]}}


def seal(directory: Path) -> None:
    """Write the hashes of all files, so that `check_seal` can tell whether one has changed."""
    (directory / HASHES).write_text(json.dumps(_hashes(directory)), encoding="utf-8")


def check_seal(directory: Path) -> None:
    """Raise ValueError, or OSError, where the files are not those that were sealed."""
    if json.loads((directory / HASHES).read_bytes()) != _hashes(directory):
        raise ValueError("a file has changed since it was written")


def _hashes(directory: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(directory.iterdir()) if path.name != HASHES}
