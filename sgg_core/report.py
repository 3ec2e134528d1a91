"""What a finished run is worth, as one JSON document (report.json). Loads no torch."""

from __future__ import annotations

from pydantic import BaseModel

from sgg_core.cross_validation import CrossValidation
from sgg_core.evidence import Baseline, Calibration, HardExample
from sgg_core.figures import Evaluation
from sgg_core.forgetting import Retention
from sgg_core.spread import Spread
from sgg_core.telemetry import Direction, SourceAlignment, Stability

REPORT, CARD, PAGE, ANSWERS, PLOTS = "report.json", "README.md", "report.html", "answers.jsonl", "plots"
PROOF = "verification.json"
"""In an adapter's directory: the report for programs, as Markdown and as a page; the answers; a folder of pictures;
what a fresh process found."""

EXAMPLES = "examples.jsonl"
"""Beside them: how suspicious the training examples' labels are, the most suspicious first. One Doubt a line."""

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy of the page: it runs nothing, and loads nothing from anywhere."""


class FinalFigures(BaseModel):
    """Figures at the end of the run: of its last step, and on the validation examples by the weights that were kept."""

    train_loss: float
    train_accuracy: float | None = None
    valid_loss: float | None = None
    valid_accuracy: float | None = None
    valid_macro_f1: float | None = None


class Verification(BaseModel):
    """The written adapter was loaded again from its files and asked the same questions.

    `max_difference` is over log-probabilities (classification) or mean losses (SFT) of `probes` examples; `reloaded`
    says that it was exactly 0.
    """

    reloaded: bool
    probes: int
    max_difference: float


class TrainingReport(BaseModel):
    """Everything that report.json holds. `baseline` is the same evaluation before the first step.

    `baselines` are there with a validation file, `calibration` and `hardest` for classification only; what was said of
    each example stands in answers.jsonl.
    """

    base_model: str
    method: str
    kind: str
    labels: list[str]
    seed: int
    examples: int
    validation_examples: int
    validation_examples_seen: int = 0  # of them, those that the training file holds, too, word for word or almost
    validation_sha256: str | None = None
    source_examples: int
    steps: int
    epochs: int
    batch_size: int
    learning_rate: float
    trained_tokens: int
    seconds: float
    stopped_early: bool
    kept_step: int
    final: FinalFigures
    baseline: Evaluation | None
    evaluation: Evaluation | None
    baselines: list[Baseline] = []
    retention: Retention | None = None
    replicas: Spread | None = None
    cross_validation: CrossValidation | None = None
    calibration: Calibration | None = None
    hardest: list[HardExample] = []
    explanations: list[str] = []
    stability: Stability
    direction: Direction
    source: SourceAlignment | None
    verification: Verification
