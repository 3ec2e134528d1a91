"""Methods that are settings of the product: trained by it, written to a directory, loaded from there and asked."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sgg_core.adapter_file import ADAPTER, canonical
from sgg_core.bench.assignment import Assignment, Method, NotApplicableError, Outcome
from sgg_core.catalogue import Catalogue
from sgg_core.gradients import cosine
from sgg_core.guidance.passes import TaskBatch
from sgg_core.lora_layers import lora
from sgg_core.objective import Objective
from sgg_core.plan import make_plan
from sgg_core.predictor import load_predictor
from sgg_core.report import TrainingReport
from sgg_core.reporting import SilentReporter
from sgg_core.spec import TrainingSpec
from sgg_core.task_data import TaskData
from sgg_core.tasks.choice import encoded, make_task
from sgg_core.trainer import train

LOOKS = 4

Groups = dict[str, Any]
NOTHING = {"magnitude": 0.0, "direction": 0.0}
SETTINGS: dict[str, Groups] = {
    "lora": {"method": "supervised"},
    "lora_contrast": {"method": "supervised", "task": {"objective": "contrast"}},
    "lora_contrast_nameless": {"method": "supervised", "task": {"objective": "contrast", "label_names": False}},
    "lora_balanced": {"method": "supervised", "optimization": {"balanced_batches": True}},
    "lora_names": {"method": "supervised", "task": {"label_names": True}},
    "lora_clip": {"task": {"objective": "cross_entropy"}, "guidance": NOTHING},
    "lora_sam": {
        "task": {"objective": "cross_entropy"},
        "guidance": {
            "every": 1,
            "magnitude": 1.0,
            "direction": 0.0,
            "clip_z": None,
            "ramp_fraction": 0.0,
            "radius": 0.05,
        },
    },
    "sgg": {},
    "sgg_nameless": {"task": {"label_names": False}},
    "sgg_without_kinship": {"task": {"label_kinship": False}},
    "sgg_cross_entropy": {"task": {"objective": "cross_entropy"}},
    "sgg_magnitude": {"guidance": {"direction": 0.0}},
    "sgg_direction": {"guidance": {"magnitude": 0.0}},
    "sgg_anchor": {"guidance": {"reference": "anchor"}},
    "sgg_split": {"guidance": {"reference": "split"}},
    "sgg_base_kl": {"guidance": {"reference": "base_kl"}},
    "sgg_every_1": {"guidance": {"every": 1}},
    "sgg_wide": {"guidance": {"every": 1, "radius": 0.2}},
    "sgg_momentum": {"guidance": {"variant": "momentum", "every": 1}},
}
WITH_SOURCE: dict[str, Groups] = {
    "target_only": {},
    **{f"sgg_{rule}": {"guidance": {"source_weight": rule}} for rule in ("gated", "fixed", "cross_fitted", "equal")},
}


def trained(groups: Groups, with_source: bool, given: Assignment) -> Outcome:
    """One adapter by the product's trainer."""
    if given.base.entry.kind == "causal" and groups.get("task", {}).get("objective") == "contrast":
        raise NotApplicableError("contrast is for encoders")
    spec = given.spec(**{name: dict(value) if isinstance(value, dict) else value for name, value in groups.items()})
    return _trained(spec, with_source, given)


def twice_the_steps(given: Assignment) -> Outcome:
    """Plain LoRA with as many passes as the guided one."""
    plan = make_plan(given.spec(method="supervised"), given.base.entry.kind, *given.training.sizes)
    return trained({"method": "supervised", "optimization": {"epochs": 2 * plan.epochs}}, False, given)


def two_seeds(given: Assignment) -> Outcome:
    """Two plain LoRA adapters, whose probabilities are averaged."""
    both = [
        trained(SETTINGS["lora"], False, replace(given, cell=replace(given.cell, seed=seed)))
        for seed in (given.cell.seed, given.cell.seed + 1_000_000)
    ]
    seconds = sum(outcome.figures["train_seconds"] for outcome in both)
    return Outcome((both[0].scores + both[1].scores) / 2, both[0].figures | {"train_seconds": seconds})


METHODS: dict[str, Method] = {
    **{name: partial(trained, groups, False) for name, groups in SETTINGS.items()},
    "lora_2x": twice_the_steps,
    "lora_2_seeds": two_seeds,
}
PAIR_METHODS: dict[str, Method] = {
    name: partial(trained, groups, name != "target_only") for name, groups in WITH_SOURCE.items()
}


def _trained(spec: TrainingSpec, with_source: bool, given: Assignment) -> Outcome:
    sources = [given.source] if with_source and given.source is not None else []
    plan = make_plan(spec, given.base.entry.kind, *given.training.sizes)
    if given.held_out is not None:
        spec = looked_at(spec, plan.total_steps)
    with tempfile.TemporaryDirectory() as scratch:
        output, checkpoints = Path(scratch) / "adapter", Path(scratch) / "checkpoints"
        begun = time.perf_counter()
        train(
            spec, given.base, given.training, output=output, sources=sources, reporter=SilentReporter(),
            checkpoints=checkpoints if given.held_out is not None else None, with_documents=False,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        report = TrainingReport.model_validate_json((output / "report.json").read_bytes())
        predictor = load_predictor(output, catalogue=Catalogue.load(), base=given.base)
        answers = list(predictor.predict(given.test))
        predictor.close()
        own, of_answers = _alignment(spec, given, checkpoints) if given.held_out is not None else (None, None)
    labels = given.training.labels
    scores = torch.tensor([[answer["probabilities"][label] for label in labels] for answer in answers])
    return Outcome(
        scores,
        {
            "steps": report.steps,
            "train_seconds": round(seconds, 1),
            "train_loss": round(report.final.train_loss, 4),
            "log_norm_change_std": report.stability.log_norm_change_std,
            "abnormal_share": round(report.stability.abnormal_share, 4),
            "reference_cosine": report.direction.reference_cosine_mean,
            "path_efficiency": report.direction.path_efficiency,
            "directional_alignment": own,
            "answer_alignment": of_answers,
            "source_cosine": report.source.cosine_mean if report.source else None,
            "source_weight": report.source.weight_mean if report.source else (0.0 if sources else None),
        },
    )


def looked_at(spec: TrainingSpec, steps: int) -> TrainingSpec:
    """The spec with LOOKS checkpoints at most, as far apart as can be, the last at the end."""
    every = {"every_steps": math.ceil(steps / LOOKS)}
    return spec.model_copy(update={"checkpoint": spec.checkpoint.model_copy(update=every)})


def _alignment(spec: TrainingSpec, given: Assignment, checkpoints: Path) -> tuple[float, float]:
    """Means over the checkpoints of the cosine of the support set's gradient with that on held-out examples.

    First of the loss that the run is trained on, whose support set has the labels' names where these count as examples;
    then of cross-entropy, an encoder's with the head that was fitted, whatever the run is trained on.
    """
    assert given.held_out is not None
    with lora(given.base, spec.lora, spec.seed) as adapted:
        task = make_task(spec, given.base, given.training)
        head = task.head()
        adapter = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
        parameters = adapter | ({} if head is None else {f"head.{name}": p for name, p in head.named_parameters()})
        support = TaskData(task, encoded(task, given.training), parameters)
        plan = make_plan(spec, given.base.entry.kind, *given.training.sizes)
        objective = Objective(support, adapter, plan, spec.seed)
        alike = not objective.contrasts and not objective.names
        held_out = encoded(task, given.held_out)
        own, of_answers = [], []
        for directory in sorted(checkpoints.iterdir()):
            _load(parameters, load_file(directory / ADAPTER))
            found = _cosine(support.batch(support.items, 0, 0), support.batch(held_out, 0, 0))
            of_answers.append(found)
            own.append(found if alike else _cosine(objective.batch(0), objective.data.batch(held_out, 0, 0)))
    return fmean(own), fmean(of_answers)


def _cosine(one: TaskBatch, other: TaskBatch) -> float:
    return cosine(one.gradient().gradient, other.gradient().gradient)


def _load(parameters: dict[str, Any], weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[canonical(name)])
