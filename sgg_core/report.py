"""What a finished run is worth, as one JSON document (report.json). Loads no torch."""

from __future__ import annotations

from pydantic import BaseModel

from sgg_core.figures import Evaluation
from sgg_core.telemetry import Direction, SourceAlignment, Stability


class FinalFigures(BaseModel):
    """Figures at the end of the run; validation figures are of the weights that were kept."""

    train_loss: float
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
    """Everything that report.json holds. `baseline` is the same evaluation before the first step."""

    base_model: str
    method: str
    kind: str
    labels: list[str]
    seed: int
    examples: int
    validation_examples: int
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
    stability: Stability
    direction: Direction
    source: SourceAlignment | None
    verification: Verification
