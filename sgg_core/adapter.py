"""Adapter directories: writing one that proves itself."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from sgg_core import telemetry
from sgg_core.adapter_file import HEAD, MANIFEST
from sgg_core.backbone import LoadedBase
from sgg_core.card import render_card
from sgg_core.catalogue import BaseModelEntry
from sgg_core.checkpoint import Progress
from sgg_core.encoding import Encoded
from sgg_core.errors import VerificationError
from sgg_core.evaluation import probe_values
from sgg_core.evidence import Doubt, against, answer_lines, calibration, explained, hardest, loss_lines
from sgg_core.examples import ExampleSet
from sgg_core.figures import Evaluation
from sgg_core.files import sha256_of, whole_directory
from sgg_core.forgetting import Retention
from sgg_core.manifest import DataHash, Manifest, StartedFrom, template_fingerprint, verify_directory
from sgg_core.page import render_page
from sgg_core.plan import Plan
from sgg_core.plots import drawing, pictures, write_plots
from sgg_core.predictor import task_of
from sgg_core.proof import prove
from sgg_core.report import (
    ANSWERS,
    CARD,
    EXAMPLES,
    PAGE,
    PLOTS,
    PROOF,
    REPORT,
    FinalFigures,
    TrainingReport,
    Verification,
)
from sgg_core.reporting import EvaluationMetrics, StepMetrics, message_adapter
from sgg_core.run_files import RunFiles
from sgg_core.spec import TrainingSpec
from sgg_core.tasks.task import Task

BEFORE_TRAINING = {
    "causal": ("zero_shot", "the base model as it comes"),
    "encoder": ("linear_probe", "a linear probe on the frozen encoder"),
}
# A reloaded adapter that answers differently by more than this is not delivered.
TOLERANCE = 1e-3
PROBES_OF_PROOF = 4
METRICS = "metrics.jsonl"
# Of both evaluations: one row an example stands in answers.jsonl, and would hide the figures in report.json.
IN_ANSWERS = {"baseline": {"answers", "losses"}, "evaluation": {"answers", "losses"}}
PACKAGES = ("torch", "transformers", "peft", "safetensors")


@dataclass(frozen=True)
class Adapted:
    """A trained adapter still in memory, with everything its directory has to tell."""

    spec: TrainingSpec
    base: LoadedBase
    adapted: Any  # peft.PeftModel
    task: Task
    plan: Plan
    progress: Progress
    files: RunFiles
    probes: Sequence[Encoded]
    evaluation: Evaluation | None
    distance: float
    stopped_early: bool
    start: StartedFrom | None = None
    doubts: Sequence[Doubt] = ()
    retention: Retention | None = None


def write_adapter(result: Adapted, output: Path, *, with_documents: bool = True) -> TrainingReport:
    """Write the output directory, load the adapter from it again, and compare; whole or not at all.

    Without documents it has but the report as JSON, until `add_to_report` makes them all if it is to.

    Raises VerificationError if the reloaded adapter answers differently, here or in a process of its own, and
    DiskFullError where space ran out.
    """
    with whole_directory(output) as work:
        _write_weights(result, work)
        proof = prove(result.base, work, result.probes[:PROBES_OF_PROOF])
        if proof is not None:
            (work / PROOF).write_text(proof.model_dump_json(indent=2) + "\n", encoding="utf-8")
        verification = _verified(result, work)
        report = _report(result, verification)
        _write_answers(result, work)
        if result.doubts:
            doubted = "".join(doubt.model_dump_json() + "\n" for doubt in result.doubts)
            (work / EXAMPLES).write_text(doubted, encoding="utf-8")
        history = [m for m in result.progress.history if isinstance(m, StepMetrics | EvaluationMetrics)]
        lines = "".join(message.model_dump_json() + "\n" for message in history)
        (work / METRICS).write_text(lines, encoding="utf-8")
        manifest = _manifest(result, work)
        if with_documents:
            write_documents(work, report, manifest, result.base.entry)
        else:
            _write_report(work, report, manifest)
    return report


def write_documents(work: Path, report: TrainingReport, manifest: Manifest, entry: BaseModelEntry) -> None:
    """Write the report in its three forms with its pictures, and the manifest of all that is in the directory then."""
    lines = (work / METRICS).read_bytes().splitlines()
    history = [m for m in map(message_adapter.validate_json, lines) if isinstance(m, StepMetrics | EvaluationMetrics)]
    figures = pictures(history, report)
    write_plots(figures, work / PLOTS)
    card = render_card(report, manifest.spec, entry, manifest.data)
    (work / CARD).write_text(card, encoding="utf-8")
    drawings = {f"{PLOTS}/{name}.png": drawing(figure) for name, figure in figures.items()}
    (work / PAGE).write_text(render_page(card, drawings), encoding="utf-8")
    _write_report(work, report, manifest)


def _write_report(work: Path, report: TrainingReport, manifest: Manifest) -> None:
    (work / REPORT).write_text(report.model_dump_json(indent=2, exclude=IN_ANSWERS) + "\n", encoding="utf-8")
    manifest = manifest.model_copy(update={"files": _hashes(work)})
    (work / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def add_to_report(directory: Path, report: TrainingReport, entry: BaseModelEntry, *, with_documents: bool) -> None:
    """Give a finished adapter directory another report."""
    if with_documents:
        write_documents(directory, report, verify_directory(directory), entry)
    else:
        _write_report(directory, report, verify_directory(directory))


def answered_before(kind: str, start: str | None) -> tuple[str, str]:
    """What answers before the first step: the name of that baseline, and in words."""
    return BEFORE_TRAINING[kind] if start is None else ("start", f"the adapter {start}")


def write_config(adapted: Any, base: LoadedBase, directory: Path) -> None:
    """Write the adapter_config.json with which PEFT loads the weights beside it."""
    config = adapted.peft_config["default"]
    config.base_model_name_or_path = str(base.directory or base.entry.name)
    config.save_pretrained(directory)


def _write_weights(result: Adapted, work: Path) -> None:
    adapted, base = result.adapted, result.base
    adapted.peft_config["default"].base_model_name_or_path = str(base.directory or base.entry.name)
    adapted.save_pretrained(work, save_embedding_layers=False)
    base.tokenizer.save_pretrained(work)
    head = result.task.head()
    if head is not None:
        save_file({name: tensor.contiguous() for name, tensor in head.state_dict().items()}, work / HEAD)


def _verified(result: Adapted, work: Path) -> Verification:
    """Load the files just written as a second adapter beside the first, and compare the answers."""
    expected = probe_values(result.task, result.probes)
    adapted = result.adapted
    adapted.load_adapter(str(work), adapter_name="reloaded")
    adapted.set_adapter("reloaded")
    try:
        answers = probe_values(task_of(_manifest(result, work), result.base, work), result.probes)
    finally:
        adapted.set_adapter("default")
        adapted.delete_adapter("reloaded")
    difference = float((answers - expected).abs().max())
    if not difference <= TOLERANCE:
        raise VerificationError(
            f"The saved adapter gives different answers once it is loaded again (by up to {difference:.2g}).",
            "Please report this.",
        )
    return Verification(reloaded=difference == 0.0, probes=len(result.probes), max_difference=difference)


def _write_answers(result: Adapted, work: Path) -> None:
    before, after = result.progress.baseline, result.evaluation
    if result.files.validation is None or after is None:
        return
    if after.answers is not None:
        earlier = before.answers if before else None
        rows = answer_lines(earlier, after.answers, result.task.labels, result.files.validation)
    else:
        assert after.losses is not None
        rows = loss_lines(before.losses if before else None, after.losses, result.files.validation)
    (work / ANSWERS).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _judged(result: Adapted) -> dict[str, Any]:
    """The report's fields that need what was said of each validation example; none without such a file."""
    before, after = result.progress.baseline, result.evaluation
    fields: dict[str, Any] = {}
    if result.files.validation is None or after is None:
        return fields
    if after.answers is not None:
        fields["calibration"] = calibration(after.answers)
        fields["hardest"] = hardest(after.answers, result.task.labels, result.files.validation)
    if before is not None and (before.answers or before.losses):  # an older version measured no losses of examples
        name, words = answered_before(result.base.entry.kind, None if result.start is None else result.start.name)
        fields["baselines"] = [against(name, before, after, words)]
        if (rival := result.progress.in_context) is not None:
            words = f"the base model with {result.progress.examples_shown} training examples in its prompt"
            fields["baselines"].append(against("in_context", rival, after, words))
        if (rival := result.progress.plain) is not None:
            fields["baselines"].append(against("plain_lora", rival, after, "plain LoRA with the same seed"))
    return fields


def _report(result: Adapted, verification: Verification) -> TrainingReport:
    spec, plan, progress, figures = result.spec, result.plan, result.progress, result.evaluation
    steps = [message for message in progress.history if isinstance(message, StepMetrics)]
    stability = telemetry.stability(steps, plan.warmup_steps)
    direction = telemetry.direction(steps, plan.batch_size, result.distance, progress.path_length)
    source = telemetry.source_alignment(steps, progress.layer_cosine_means())
    return TrainingReport(
        base_model=spec.base_model,
        method=spec.method,
        kind=result.files.training.kind,
        labels=list(result.task.labels),
        seed=spec.seed,
        examples=len(result.files.training),
        validation_examples=len(result.files.validation) if result.files.validation else 0,
        validation_examples_seen=result.files.validation_seen,
        validation_sha256=result.files.validation.sha256 if result.files.validation else None,
        source_examples=sum(len(source) for source in result.files.sources),
        steps=progress.step,
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate,
        trained_tokens=progress.trained_tokens,
        seconds=progress.seconds,
        stopped_early=result.stopped_early,
        kept_step=progress.best_step if spec.evaluation.keep == "best" and progress.best_step else progress.step,
        final=FinalFigures(
            train_loss=steps[-1].train_loss,
            train_accuracy=steps[-1].train_accuracy,
            valid_loss=figures.loss if figures else None,
            valid_accuracy=figures.accuracy if figures else None,
            valid_macro_f1=figures.macro_f1 if figures else None,
        ),
        baseline=progress.baseline,
        evaluation=figures,
        stability=stability,
        direction=direction,
        source=source,
        explanations=explained(stability, direction, source),
        retention=result.retention,
        verification=verification,
        **_judged(result),
    )


def _data(result: Adapted) -> list[DataHash]:
    named: list[tuple[str, ExampleSet | None]] = [
        ("training", result.files.training),
        ("validation", result.files.validation),
    ]
    named += [("source", source) for source in result.files.sources]
    named.append(("retention", result.files.retention))
    return [
        DataHash(role=role, filename=data.filename, sha256=data.sha256, examples=len(data))
        for role, data in named
        if data is not None
    ]


def _manifest(result: Adapted, work: Path) -> Manifest:
    return Manifest(
        kind=result.files.training.kind,
        labels=list(result.task.labels),
        prompt=result.task.template(),
        template_sha256=template_fingerprint(result.task),
        spec=result.spec,
        base_model_sha256=result.base.sha256,
        data=_data(result),
        started_from=result.start,
        versions={"python": platform.python_version(), **{name: version(name) for name in ("sgg", *PACKAGES)}},
        files=_hashes(work),
    )


def _hashes(work: Path) -> dict[str, str]:
    files = sorted(path for path in work.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(work).as_posix(): sha256_of(path) for path in files}
