"""The model card of an adapter: README.md with YAML front matter as peft and the Hugging Face hub read it. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Protocol

from sgg_core.catalogue import BaseModelEntry, HubSource
from sgg_core.figures import Evaluation
from sgg_core.report import TrainingReport
from sgg_core.significance import wilson_interval
from sgg_core.spec import TrainingSpec


class DataFile(Protocol):
    """What the card tells about one data file of the run."""

    role: str
    filename: str
    sha256: str
    examples: int


MOST_CONFUSED = 12  # labels: a wider matrix is in report.json alone


def render_card(report: TrainingReport, spec: TrainingSpec, entry: BaseModelEntry, data: Sequence[DataFile]) -> str:
    """The whole card as Markdown. Names that users chose are escaped; no path of the training machine appears."""
    sections = [
        _front_matter(report, entry),
        _introduction(report, entry),
        _figures(report),
        _compared(report),
        _folds(report),
        _replicas(report),
        _retention(report),
        _per_label(report.evaluation),
        _confusion(report.evaluation),
        _calibration(report),
        _hardest(report),
        _usage(report, entry),
        _training(report, spec),
        _data(data),
        _limits(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with escaped cells."""
    lines = [header, ["---"] * len(header), *([escaped(str(cell)) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escaped(text: str) -> str:
    """The text with nothing in it that Markdown or HTML would act on, on one line."""
    for mark in "\\`*_[]|<>#":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())


def base_reference(entry: BaseModelEntry) -> str:
    """The base model as the hub knows it where it comes from there, else its name in the catalogue."""
    return entry.source.repo_id if isinstance(entry.source, HubSource) else entry.name


def _front_matter(report: TrainingReport, entry: BaseModelEntry) -> str:
    tags = ["lora", "peft", "few-shot", "sgg" if report.method == "sgg" else "supervised"]
    task = "text-classification" if report.kind == "classification" else "text-generation"
    fields = {"base_model": base_reference(entry), "library_name": "peft", "pipeline_tag": task, "tags": tags}
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]  # JSON is YAML
    return "\n".join(["---", *lines, "---"])


def _introduction(report: TrainingReport, entry: BaseModelEntry) -> str:
    how = "structured gradient guidance" if report.method == "sgg" else "plain LoRA"
    what = {
        "classification": f"sorts texts into {len(report.labels)} labels",
        "completion": "completes prompts",
        "chat": "answers in conversations",
    }[report.kind]
    base = escaped((entry.description or entry.name).rstrip("."))
    lines = [
        f"# {escaped(entry.name)}, adapted from {report.examples:,} examples",
        "",
        f"A LoRA adapter that {what}. It was trained by SGG with {how} on {base}.",
        f"The base model's licence is {escaped(entry.license)}; its weights are not part of this directory.",
    ]
    if report.labels:
        lines += ["", "Labels: " + ", ".join(escaped(label) for label in report.labels) + "."]
    return "\n".join(lines)


def _figures(report: TrainingReport) -> str:
    before, after = report.baseline, report.evaluation
    if after is None:
        known = "cross-validation alone tells" if report.cross_validation else "nothing is known"
        return (
            f"## Figures\n\nNo validation file was given, so {known} about texts outside the training file. "
            f"The last training loss was {report.final.train_loss:.4f}."
        )
    rows = [("accuracy" if after.per_label else "token accuracy", before.accuracy if before else None, after.accuracy)]
    if after.macro_f1 is not None:
        rows.append(("macro-F1", before.macro_f1 if before else None, after.macro_f1))
    rows.append(("loss", before.loss if before else None, after.loss))
    shown = [(name, _number(old), _number(new)) for name, old, new in rows]
    lines = ["## Figures", "", f"On {after.examples:,} validation examples:", ""]
    if seen := report.validation_examples_seen:
        told = f"{seen:,} of them also in the training file, so these figures are too good"
        lines[2] = f"On {after.examples:,} validation examples, **{told}**:"
    lines.append(table(("figure", "before training", "after training"), shown))
    if after.per_label:
        low, high = wilson_interval(after.accuracy, after.examples)
        lines += ["", f"With so many examples, the 95 % interval of the accuracy is {low:.3f} to {high:.3f}."]
    return "\n".join([*lines, "", "![Training and validation loss](plots/loss.png)"])


def _compared(report: TrainingReport) -> str:
    if not report.baselines:
        return ""
    if report.kind == "classification":
        figure, unit, scale, digits = "accuracy", "points", 100, 1
    else:
        figure, unit, scale, digits = "loss", "nats a token", 1, 3
    rows = []
    for one in report.baselines:
        found = one.comparison
        of, low, high = (f"{scale * value:+.{digits}f}" for value in (found.difference, found.low, found.high))
        rows.append((found.than, f"{getattr(one, figure):.3f}", of, f"{low} to {high}"))
    header = ("baseline on the same examples", f"its {figure}", f"difference, {unit}", "95 % interval")
    sentences = [f"**{escaped(one.comparison.verdict)}**" for one in report.baselines]
    picture = "![Differences with their intervals](plots/differences.png)"
    return "\n\n".join(["### What it is worth", *sentences, table(header, rows), picture])


def _folds(report: TrainingReport) -> str:
    found = report.cross_validation
    if found is None:
        return ""
    said = ["### Cross-validation", f"**{escaped(found.verdict)}**"]
    if len(found.rates) > 1:
        rows = [(f"{each.learning_rate:g}", _number(each.accuracy), _number(each.loss)) for each in found.rates]
        said.append(table(("learning rate", "accuracy on what was left out", "loss on it"), rows))
    return "\n\n".join(said)


def _replicas(report: TrainingReport) -> str:
    if report.replicas is None:
        return ""
    rows = [
        (f"{run.learning_rate:g}", run.seed, *map(_number, (run.valid_accuracy, run.valid_loss, run.train_loss)))
        for run in report.replicas.runs
    ]
    header = ("learning rate", "seed", "validation accuracy", "validation loss", "last training loss")
    several = len({run.learning_rate for run in report.replicas.runs}) > 1
    title = "Several learning rates" if several else "Several seeds"
    return "\n\n".join([f"### {title}", f"**{escaped(report.replicas.verdict)}**", table(header, rows)])


def _retention(report: TrainingReport) -> str:
    if report.retention is None:
        return ""
    return f"### What it forgot\n\n**{escaped(report.retention.verdict)}**"


def _confusion(evaluation: Evaluation | None) -> str:
    if evaluation is None or evaluation.confusion is None or len(evaluation.confusion.labels) > MOST_CONFUSED:
        return ""
    found = evaluation.confusion
    rows = [(label, *counts) for label, counts in zip(found.labels, found.counts, strict=True)]
    header = ("label, and what was predicted:", *(escaped(label) for label in found.labels))
    return "### Confusion\n\n" + table(header, rows)


def _calibration(report: TrainingReport) -> str:
    if report.calibration is None:
        return ""
    error = f"Confidence and accuracy differ by {100 * report.calibration.expected_error:.1f} points on average."
    return "\n\n".join(["### Calibration", error, "![Confidence and accuracy](plots/calibration.png)"])


def _per_label(evaluation: Evaluation | None) -> str:
    if evaluation is None or not evaluation.per_label:
        return ""
    rows = [
        (one.label, _number(one.precision), _number(one.recall), _number(one.f1), one.support)
        for one in evaluation.per_label
    ]
    return "### Per label\n\n" + table(("label", "precision", "recall", "F1", "examples"), rows)


def _hardest(report: TrainingReport) -> str:
    if not report.hardest:
        return ""
    rows = [(one.line, one.label, one.predicted, f"{one.probability:.3f}") for one in report.hardest]
    return "\n\n".join(
        [
            "### Hardest examples",
            "Lines of the validation file whose label the adapter found least likely. Wrong labels look the same.",
            table(("line", "label", "predicted", "probability of the label"), rows),
        ]
    )


def _usage(report: TrainingReport, entry: BaseModelEntry) -> str:
    row = {
        "classification": '{"text": "..."}',
        "completion": '{"prompt": "..."}',
        "chat": '{"messages": [{"role": "user", "content": "..."}]}',
    }[report.kind]
    auto = "AutoModelForCausalLM" if entry.kind == "causal" else "AutoModel"
    note = {
        (
            "classification",
            "causal",
        ): "`sgg.json` holds the prompt; the label with the most probable words wins.",
        ("classification", "encoder"): "The label comes from mean-pooled states and the weights in `head.safetensors`.",
    }.get((report.kind, entry.kind), "The tokenizer and its chat template lie beside the adapter.")
    return f"""## Use

On the command line: `sgg predict DIRECTORY --text "..."`. In Python, exactly as it was evaluated:

```python
from pathlib import Path

from sgg_core.predictor import load_predictor
from sgg_core.catalogue import Catalogue

predictor = load_predictor(Path("DIRECTORY"), catalogue=Catalogue.load())
print(list(predictor.predict([{row}])))
```

With peft alone, where BASE is a directory with the base model's weights, or its id on the hub:

```python
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

model = PeftModel.from_pretrained({auto}.from_pretrained("BASE"), "DIRECTORY")
tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")
```

{note}"""


def _training(report: TrainingReport, spec: TrainingSpec) -> str:
    guidance = spec.guidance
    rows: list[tuple[str, object]] = [
        ("method", "structured gradient guidance" if report.method == "sgg" else "plain LoRA"),
        ("steps", f"{report.steps:,}" + (" (stopped early)" if report.stopped_early else "")),
        ("weights kept", f"of step {report.kept_step:,}"),
        ("epochs, batch size", f"{report.epochs}, {report.batch_size}"),
        ("peak learning rate", f"{report.learning_rate:g}"),
        ("LoRA rank, alpha", f"{spec.lora.rank}, {spec.lora.alpha:g}"),
        ("seed", report.seed),
        ("trained tokens", f"{report.trained_tokens:,}"),
        ("seconds", f"{report.seconds:,.1f}"),
        ("mean gradient norm", _number(report.stability.gradient_norm_mean)),
        ("the same, projected", _number(report.stability.projected_gradient_norm_mean)),
        ("share of clipped steps", f"{100 * report.stability.clipped_share:.1f} %"),
        (f"mean cosine to the reference (batch {report.batch_size})", _number(report.direction.reference_cosine_mean)),
    ]
    if report.method == "sgg":
        strengths = f"{guidance.magnitude:g}, {guidance.direction:g}, {guidance.alignment:g}"
        rows.insert(1, ("guidance", f"{guidance.variant}, reference {guidance.reference}, radius {guidance.radius:g}"))
        rows.insert(2, ("strengths: magnitude, direction, alignment", strengths))
    if report.source is not None:
        rows.append(("mean cosine to the source gradient", _number(report.source.cosine_mean)))
        rows.append(("steps in conflict with the source", f"{100 * report.source.conflict_share:.1f} %"))
    checked = report.verification
    verdict = "exactly the same answers" if checked.reloaded else f"answers within {checked.max_difference:.1e}"
    return "\n".join(
        [
            "## How it was trained",
            "",
            table(("setting or figure", "value"), rows),
            "",
            *(sentence + "\n" for sentence in report.explanations),
            f"The adapter was loaded again from these files and gave {verdict} on {checked.probes} examples.",
            "Every setting is in `sgg.json`, every step in `metrics.jsonl`, every figure in `report.json`.",
            "",
            "![Gradient norm](plots/gradient_norm.png)",
            "",
            "![Cosines](plots/cosines.png)",
        ]
    )


def _data(data: Sequence[DataFile]) -> str:
    rows = [(one.role, one.filename, f"{one.examples:,}", one.sha256) for one in data]
    return "## Data\n\n" + table(("role", "file", "examples", "sha256"), rows)


def _limits(report: TrainingReport) -> str:
    points = [
        f"It learned from {report.examples:,} examples: expect errors on texts that resemble none of them.",
        "It inherits the knowledge, the languages and the biases of its base model.",
    ]
    if report.kind == "classification":
        points.append("It always answers with one of its labels, also for texts that belong to none of them.")
        measured = report.calibration
        points.append(
            "Whether its probabilities are right was not measured."
            if measured is None
            else f"Its probabilities are off by {measured.expected_error:.3f} on average (expected calibration error)."
        )
    else:
        points.append("What it writes may be wrong, and was not filtered.")
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
