"""Adapter directories: writing one that proves itself, and using one."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file

from sgg_core import encoding, telemetry
from sgg_core.backbone import LoadedBase, load_base, take_off
from sgg_core.card import render_card
from sgg_core.catalogue import Catalogue
from sgg_core.checkpoint import Progress
from sgg_core.encoding import Encoded
from sgg_core.errors import CheckpointError, DataError, Problem
from sgg_core.evaluation import probe_values
from sgg_core.examples import ExampleSet
from sgg_core.figures import Evaluation
from sgg_core.files import sha256_of, whole_directory
from sgg_core.plan import Plan
from sgg_core.plots import write_plots
from sgg_core.report import FinalFigures, TrainingReport, Verification
from sgg_core.reporting import EvaluationMetrics, StepMetrics
from sgg_core.shapes import ChatExample, ChatMessage, ClassificationExample, CompletionExample, Example
from sgg_core.spec import TrainingSpec
from sgg_core.tasks.choice import task_for
from sgg_core.tasks.label_words import LabelWords
from sgg_core.tasks.pooled_head import PooledHead
from sgg_core.tasks.task import Task

MANIFEST = "sgg.json"
HEAD = "head.safetensors"
# A reloaded adapter that answers differently by more than this is not delivered.
TOLERANCE = 1e-3
PACKAGES = ("torch", "transformers", "peft", "safetensors")


class DataHash(BaseModel):
    """One data file of the run."""

    role: str
    filename: str
    sha256: str
    examples: int


class Manifest(BaseModel):
    """Content of sgg.json: all that is needed to use the adapter again, and to know where it comes from."""

    format: int = 1
    kind: str
    labels: list[str]
    prompt: str | None
    spec: TrainingSpec
    base_model_sha256: str
    data: list[DataHash]
    versions: dict[str, str]
    files: dict[str, str]


@dataclass(frozen=True)
class Adapted:
    """A trained adapter still in memory, with everything its directory has to tell."""

    spec: TrainingSpec
    base: LoadedBase
    adapted: Any  # peft.PeftModel
    task: Task
    plan: Plan
    progress: Progress
    training: ExampleSet
    validation: ExampleSet | None
    sources: tuple[ExampleSet, ...]
    probes: Sequence[Encoded]
    evaluation: Evaluation | None
    distance: float
    stopped_early: bool


def write_adapter(result: Adapted, output: Path) -> TrainingReport:
    """Write the output directory, load the adapter from it again, and compare; whole or not at all.

    Raises CheckpointError if the reloaded adapter answers differently, DiskFullError where space ran out.
    """
    with whole_directory(output) as work:
        _write_weights(result, work)
        verification = _verified(result, work)
        report = _report(result, verification)
        (work / "report.json").write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        history = [m for m in result.progress.history if isinstance(m, StepMetrics | EvaluationMetrics)]
        lines = "".join(message.model_dump_json() + "\n" for message in history)
        (work / "metrics.jsonl").write_text(lines, encoding="utf-8")
        write_plots(history, work / "plots")
        card = render_card(report, result.spec, result.base.entry, _data(result))
        (work / "README.md").write_text(card, encoding="utf-8")
        (work / MANIFEST).write_text(_manifest(result, work).model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


def verify_directory(directory: Path) -> Manifest:
    """Check every file's sha256 against the manifest. Raises CheckpointError naming all files that differ."""
    try:
        manifest = Manifest.model_validate_json((directory / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{directory} is no adapter directory: {MANIFEST} cannot be read ({error}).", "Download it again."
        ) from error
    bad = []
    for name, digest in manifest.files.items():
        path = directory / name
        if not path.is_file():
            bad.append(f"{name} is missing")
        elif sha256_of(path) != digest:
            bad.append(f"{name} was changed")
    if bad:
        raise CheckpointError(f"{directory} is damaged: {'; '.join(bad)}.", "Download it again.")
    return manifest


def load_predictor(directory: Path, *, catalogue: Catalogue, base: LoadedBase | None = None) -> Predictor:
    """Load an adapter directory for prediction, on `base` or on the catalogue's entry of its base model.

    Raises CheckpointError for a damaged directory or another base model than the adapter was trained on.
    """
    from peft import PeftModel

    manifest = verify_directory(directory)
    base = base or load_base(catalogue.get(manifest.spec.base_model))
    if base.sha256 != manifest.base_model_sha256:
        raise CheckpointError(
            f"{directory} was trained on other weights of {manifest.spec.base_model!r} than are here.",
            "Use the same version of the base model.",
        )
    adapted = PeftModel.from_pretrained(base.model, directory).eval()
    return Predictor(manifest, base, adapted, task_of(manifest, base, directory))


def task_of(manifest: Manifest, base: LoadedBase, directory: Path) -> Task:
    """The task of an adapter directory, with its head's weights."""
    spec = manifest.spec
    task = task_for(base, manifest.kind, manifest.labels, spec.task.description, spec.task.max_tokens)
    head = task.head()
    if head is not None:
        head.load_state_dict(load_file(directory / HEAD, device=str(base.device)))
    return task


class Predictor:
    """Answers of one adapter. Rows are dicts as in a data file, without the label, completion or last answer."""

    def __init__(self, manifest: Manifest, base: LoadedBase, adapted: Any, task: Task) -> None:
        self.manifest = manifest
        self.base = base
        self.task = task
        self._adapted = adapted

    def close(self) -> None:
        """Take the adapter off the base model, which can then carry another one."""
        take_off(self.base, self._adapted)

    def predict(
        self, rows: Sequence[Mapping[str, Any]], filename: str = "input", lines: Sequence[int] | None = None
    ) -> Iterator[dict[str, Any]]:
        """One answer a row, in order: {"label", "probabilities"}, or {"completion"} for SFT adapters.

        `lines` are the rows' lines in `filename`, from 1 on without gaps unless given. Raises DataError naming the line
        of every row that cannot be used, before the first answer.
        """
        lines = lines or range(1, len(rows) + 1)
        examples = self._examples(rows, filename, lines)
        if isinstance(self.task, LabelWords | PooledHead):
            return self._labels(self.task, examples)
        return self._completions(self._prompts(examples, filename, lines))

    def _labels(self, task: LabelWords | PooledHead, examples: Sequence[Example]) -> Iterator[dict[str, Any]]:
        for start in range(0, len(examples), 32):
            items = task.encode(examples[start : start + 32])
            for row in probe_values(task, items, self.base.device).exp().tolist():
                best = max(range(len(row)), key=row.__getitem__)
                yield {"label": task.labels[best], "probabilities": dict(zip(task.labels, row, strict=True))}

    def _prompts(self, examples: Sequence[Example], filename: str, lines: Sequence[int]) -> list[str]:
        """What the model is shown of completions or chats; raises DataError naming chats that its template refuses."""
        prompts: list[str] = []
        problems: list[Problem] = []
        for line, example in zip(lines, examples, strict=True):
            if isinstance(example, CompletionExample):
                prompts.append(example.prompt)
                continue
            assert isinstance(example, ChatExample)
            turns = [{"role": message.role, "content": message.content} for message in example.messages]
            try:
                prompts.append(encoding.rendered(self.base.tokenizer, turns, for_answer=True))
            except ValueError as error:
                problems.append(Problem(line, "messages", f"{error}.", "Begin with a user's turn, and take turns."))
        if problems:
            raise DataError(filename, tuple(problems))
        return prompts

    def _completions(self, prompts: Sequence[str], max_new_tokens: int = 256) -> Iterator[dict[str, Any]]:
        tokenizer = self.base.tokenizer
        for prompt in prompts:
            ids = torch.tensor([encoding.token_ids(tokenizer, prompt)], device=self.base.device)
            with torch.inference_mode():
                answer = self.base.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                )
            yield {"completion": tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)}

    def _examples(self, rows: Sequence[Mapping[str, Any]], filename: str, lines: Sequence[int]) -> list[Example]:
        wanted = {"classification": "text", "completion": "prompt", "chat": "messages"}[self.manifest.kind]
        examples: list[Example] = []
        problems: list[Problem] = []
        for line, row in zip(lines, rows, strict=True):
            try:
                examples.append(_example(self.manifest.kind, row))
            except (KeyError, TypeError, AttributeError):
                problems.append(
                    Problem(line, wanted, f"This adapter needs {wanted!r}.", f"Give each row a {wanted!r} of text.")
                )
        if problems:
            raise DataError(filename, tuple(problems))
        return examples


def _example(kind: str, row: Mapping[str, Any]) -> Example:
    """A row without its answer as an example; raises KeyError, TypeError or AttributeError where it is no such row."""
    if kind == "classification":
        return ClassificationExample(
            _words(row["text"]), "", _words(row["text_pair"]) if row.get("text_pair") else None
        )
    if kind == "completion":
        return CompletionExample(_words(row["prompt"]), "")
    turns = tuple(ChatMessage(_role(turn["role"]), _words(turn["content"])) for turn in row["messages"])
    if turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    if not turns:
        raise TypeError("nothing to answer")
    return ChatExample(turns)


def _role(value: object) -> Literal["system", "user", "assistant"]:
    if value not in ("system", "user", "assistant"):
        raise TypeError("not a role")
    return value


def _words(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError("not a text")
    return value


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
    expected = probe_values(result.task, result.probes, result.base.device)
    adapted = result.adapted
    adapted.load_adapter(str(work), adapter_name="reloaded")
    adapted.set_adapter("reloaded")
    try:
        answers = probe_values(task_of(_manifest(result, work), result.base, work), result.probes, result.base.device)
    finally:
        adapted.set_adapter("default")
        adapted.delete_adapter("reloaded")
    difference = float((answers - expected).abs().max())
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"The adapter answers differently after loading it again (by {difference:.2g}).", "Please report this."
        )
    return Verification(reloaded=difference == 0.0, probes=len(result.probes), max_difference=difference)


def _report(result: Adapted, verification: Verification) -> TrainingReport:
    spec, plan, progress, figures = result.spec, result.plan, result.progress, result.evaluation
    steps = [message for message in progress.history if isinstance(message, StepMetrics)]
    return TrainingReport(
        base_model=spec.base_model,
        method=spec.method,
        kind=result.training.kind,
        labels=list(result.task.labels),
        seed=spec.seed,
        examples=len(result.training),
        validation_examples=len(result.validation) if result.validation else 0,
        source_examples=sum(len(source) for source in result.sources),
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
            valid_loss=figures.loss if figures else None,
            valid_accuracy=figures.accuracy if figures else None,
            valid_macro_f1=figures.macro_f1 if figures else None,
        ),
        baseline=progress.baseline,
        evaluation=figures,
        stability=telemetry.stability(steps, plan.warmup_steps),
        direction=telemetry.direction(steps, result.distance, progress.path_length),
        source=telemetry.source_alignment(steps),
        verification=verification,
    )


def _data(result: Adapted) -> list[DataHash]:
    named = [("training", result.training), ("validation", result.validation)]
    named += [("source", source) for source in result.sources]
    return [
        DataHash(role=role, filename=data.filename, sha256=data.sha256, examples=len(data))
        for role, data in named
        if data is not None
    ]


def _manifest(result: Adapted, work: Path) -> Manifest:
    files = sorted(path for path in work.rglob("*") if path.is_file() and path.name != MANIFEST)
    return Manifest(
        kind=result.training.kind,
        labels=list(result.task.labels),
        prompt=result.task.template(),
        spec=result.spec,
        base_model_sha256=result.base.sha256,
        data=_data(result),
        versions={"python": platform.python_version(), **{name: version(name) for name in ("sgg", *PACKAGES)}},
        files={path.relative_to(work).as_posix(): sha256_of(path) for path in files},
    )
