"""The training spec: every choice of a run, validated, immutable, and the same class at every edge. Loads no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator

Auto = Literal["auto"]
MOST_TARGETS = 64
MAX_TARGET_CHARS = 200
MOST_TOKENS = 8192  # of an example
CLASSIFIED_TOKENS = 512  # of an example for classification, unless more are asked for
Target = Annotated[str, Field(max_length=MAX_TARGET_CHARS)]
Rate = Annotated[float, Field(gt=0, le=1)]


def _distinct(rates: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(rates)) < len(rates):
        raise ValueError("a learning rate is listed twice")
    return rates


Rates = Annotated[tuple[Rate, ...], Field(min_length=2, max_length=10), AfterValidator(_distinct)]
# which of the two was meant is known, so that an error is about that one alone
OneRateOrSeveral = Annotated[
    Annotated[Rate | Auto, Tag("one")] | Annotated[Rates, Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, list | tuple) else "one"),
]


def _takes_bool(annotation: Any) -> bool:
    return annotation is bool or any(_takes_bool(part) for part in get_args(annotation))


class SettingsGroup(BaseModel):
    """A group of settings. Unknown names are errors, so that a typo never trains something else."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_true(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is asked for: pydantic takes them for 1 and 0."""
        given = value if isinstance(value, list | tuple) else (value,)
        wanted = cls.model_fields[info.field_name or ""].annotation
        if any(isinstance(each, bool) for each in given) and not _takes_bool(wanted):
            raise ValueError("it should not be true or false")
        return value


class TaskSpec(SettingsGroup):
    """What the examples ask the model to do."""

    type: Literal["auto", "classification", "completion", "chat"] = "auto"
    """`auto` follows the fields of the training file."""
    description: Annotated[str, Field(max_length=2000)] | None = None
    """One sentence that tells a causal language model what the labels mean; `None` uses a neutral sentence."""
    objective: Literal["auto", "cross_entropy", "contrast"] = "auto"
    """What an encoder's adapter is trained on: the loss of its linear head, or how near each other the examples of one
    label are, with the head fitted afterwards. `auto` is `contrast` under guidance and with up to eight labels."""
    label_names: bool | Auto = "auto"
    """Whether the name of each label counts as an example of it, for encoders. `auto`: with contrast, or the objective
    left to guidance, if examples lie nearer to the name of their label than to the other names, by the base model."""
    label_kinship: bool = True
    """Whether contrast may leave examples of labels that are called alike near each other, where names count and the
    base model mistakes most examples. False where such labels are opposites."""
    max_tokens: Annotated[int, Field(ge=16, le=MOST_TOKENS)] | Auto = "auto"
    """Longer examples are cut (classification) or refused (completions and chats), and counted in a notice. `auto` is
    512 for classification, for completions and chats as many as the base model sees."""


class LoraSpec(SettingsGroup):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Annotated[int, Field(ge=1, le=256)] = 8
    """Rank r of the update B A."""
    alpha: Annotated[float, Field(gt=0, le=1024)] = 16.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input. 0 keeps both passes of a guided step equal for free."""
    targets: Literal["all-linear"] | Annotated[tuple[Target, ...], Field(min_length=1, max_length=MOST_TARGETS)] = (
        "all-linear"
    )
    """Names of the linear layers that get an adapter."""


class OptimizationSpec(SettingsGroup):
    """AdamW with bias correction, linear warm-up, then linear decay to zero."""

    epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    """Passes over the training file. `auto`: steps grow with the square root of the number of examples."""
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    """Examples per optimizer step. `auto` is 8; where batches are balanced 16, and for a language model with 16
    examples a label or more as many of each label as make 8, two at least."""
    balanced_batches: bool | Auto = "auto"
    """Whether a batch holds as many examples of each label, instead of the next ones in random order. Contrast needs
    it, with two of each. `auto`: with contrast, and for causal language models under guidance where a batch holds two
    of each label."""
    learning_rate: OneRateOrSeveral = "auto"
    """Peak learning rate; `auto` depends on the kind of base model. Of several, 2 to 10 in a list, `folds` choose one;
    without folds each is trained, and the adapter of the lowest validation loss is kept, so that they need a validation
    file. One that diverges is left out."""
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=100)] | Auto = "auto"
    """Scales the learning rate; `auto` is 1."""
    warmup_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay on the adapter."""
    clip_norm: Annotated[float, Field(gt=0, le=1000)] | Auto | None = "auto"
    """Global gradient-norm clipping; `auto` depends on the kind of base model, `None` turns it off."""
    seeds: Annotated[int, Field(ge=1, le=10)] = 1
    """Trains so many times, with this seed and the next ones, and keeps the adapter of the lowest validation loss
    (without a validation file the first). As many as memory holds share their passes. The report tells mean, spread and
    interval."""
    folds: Annotated[int, Field(ge=2, le=10)] | None = None
    """Cross-validation: before it trains on all examples, trains on all but one of so many parts of them and asks about
    that part, for each part and learning rate. The report tells how good that is, without a validation file."""
    max_steps: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Upper bound on the optimizer steps, whatever `epochs` says."""

    @property
    def learning_rates(self) -> tuple[float | Auto, ...]:
        """The peak learning rate, or all of them."""
        return self.learning_rate if isinstance(self.learning_rate, tuple) else (self.learning_rate,)

    @property
    def multiplier(self) -> float:
        """What learning rates are scaled by."""
        return 1.0 if self.learning_rate_multiplier == "auto" else self.learning_rate_multiplier

    @property
    def tried(self) -> int:
        """How many times is trained on a part of the examples: with each learning rate without each fold."""
        return len(self.learning_rates) * (self.folds or 0)

    @property
    def whole(self) -> int:
        """How many times is trained on all examples: with each learning rate, or the one that folds chose, and seed."""
        return self.seeds * (1 if self.folds else len(self.learning_rates))

    @property
    def replicas(self) -> int:
        """How many times is trained."""
        return self.tried + self.whole

    @property
    def most_at_once(self) -> int:
        """How many of these may be trained at the same time: folds end before a training on all examples begins."""
        return max(self.tried, self.whole)


class GuidanceSpec(SettingsGroup):
    """Structured gradient guidance (scheme of arXiv:2506.00726, formulas in docs/method.md)."""

    variant: Literal["finite_difference", "exact", "momentum", "off"] = "finite_difference"
    """How the correction is had: a second gradient at r away, double backward (slow, no truncation error), or one
    gradient only, taken where the last step points. `off` is plain LoRA, bit for bit."""
    every: Annotated[int, Field(ge=1, le=100)] = 4
    """Correct every k-th step only, k times as strongly: 1 + 1/k passes a step."""
    reference: Literal["ema", "anchor", "split", "base_kl"] = "ema"
    """Reference direction d: moving average of past gradients; the same, but begun with the gradient of all training
    examples; the gradient of the batch's other half; or that of the divergence from the base model, against drift."""
    radius: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Length r of the finite-difference step in parameter space."""
    magnitude: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Strength a_m of the gradient-magnitude regularizer; lambda_m = a_m r."""
    magnitude_threshold: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Gradient norm tau up to which the magnitude regularizer leaves a gradient alone: (|g| - tau)+."""
    direction: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Strength a_d of the gradient-direction regularizer; lambda_d = a_d r."""
    alignment: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Strength a_s of the source-alignment regularizer; needs source files."""
    ramp_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Strengths rise linearly from 0 over this share of the steps, starting where the warm-up ends."""
    ema_beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the moving-average reference."""
    clip_z: Annotated[float, Field(gt=0, le=20)] | None = 2.5
    """Clip gradients whose log-norm lies more than this many standard deviations above its running mean."""
    source_weight: Literal["gated", "fixed", "cross_fitted", "equal"] | Auto = "auto"
    """How the source gradient is added: weighted by the measured alignment; as it is, up to the cap; in full or not at
    all, by whether a rehearsal on the source alone helped the training examples, from which the run then begins; or as
    a task of equal rank (UPGrad). `auto` is `cross_fitted`, and in a loop of your own, which cannot rehearse, `gated`.
    """
    source_scope: Literal["global", "layer"] = "global"
    """Whether conflict, weight and cap are found for the whole gradient, or for each layer of the model by itself."""
    source_cap: Annotated[float, Field(ge=0, le=2)] = 0.5
    """With `gated` and `fixed`: upper bound rho on the added source gradient, in units of the target's norm."""

    @property
    def source_rule(self) -> Literal["gated", "fixed", "cross_fitted", "equal"]:
        """What `source_weight` means for a job."""
        return "cross_fitted" if self.source_weight == "auto" else self.source_weight


class EvaluationSpec(SettingsGroup):
    """How often the validation set is looked at, and what follows from it."""

    every_steps: Annotated[int, Field(ge=1, le=100_000)] | Auto = "auto"
    """`auto` evaluates four times in a run, and at its end."""
    patience: Annotated[int, Field(ge=1, le=1000)] | None = None
    """End after this many evaluations in a row without improvement; `None` trains to the end."""
    keep: Literal["last", "best"] = "last"
    """Which weights become the adapter; `best` needs a validation file."""
    baselines: tuple[Literal["in_context", "plain_lora"], ...] | Auto = "auto"
    """What else the adapter is compared with on the validation examples, besides the model before training: the base
    model with training examples in its prompt (causal models, classification), and plain LoRA by its own defaults, with
    the same seed, which takes the time of another training (method `sgg`). `auto` is `in_context` on a GPU, and nothing
    on a CPU, where long prompts take minutes."""

    @property
    def chooses(self) -> bool:
        """Whether the adapter or the run's end is chosen by what the evaluations say."""
        return self.keep == "best" or self.patience is not None


class CheckpointSpec(SettingsGroup):
    """How often the full training state is saved, so that a killed run goes on from there."""

    every_steps: Annotated[int, Field(ge=1, le=100_000)] | Auto = "auto"
    """`auto` saves at least every 50 steps, and at each evaluation, unless these are asked for at a distance over 50
    that no number from 10 to 50 divides."""
    keep_last: Annotated[int, Field(ge=1, le=1000)] | None = None
    """The service keeps so many of the newest, and the best ones; `None` keeps as many as the server lets a job have,
    unless `keep_best` is given."""
    keep_best: Annotated[int, Field(ge=1, le=1000)] | None = None
    """The service keeps so many of the lowest validation loss, and the newest ones. Where one of the two is given, the
    other one counts as 1."""


class ResourcesSpec(SettingsGroup):
    """What a run is computed on. Its result does not depend on it, but for rounding and the draws of dropout."""

    gpus: Annotated[int, Field(ge=1, le=8)] = 1
    """Trains on so many GPUs of one machine, each of which computes a part of every batch. Where there is no GPU these
    are so many processes on the CPU, which gains nothing."""
    deterministic: bool = False
    """Trains by itself, never in one pass with other jobs or its own other replicas, so that rounding does not depend
    on them: on the same processor and as many threads the result is the same to the last bit."""


class TrainingSpec(SettingsGroup):
    """Everything a training run is told, apart from its data. JSON round trip is exact."""

    base_model: Annotated[str, Field(min_length=1, max_length=200)]
    """Name in the catalogue of base models (`sgg models`)."""
    method: Literal["sgg", "supervised"] = "sgg"
    """`supervised` is plain LoRA and ignores `guidance`."""
    task: TaskSpec = TaskSpec()
    lora: LoraSpec = LoraSpec()
    optimization: OptimizationSpec = OptimizationSpec()
    guidance: GuidanceSpec = GuidanceSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    resources: ResourcesSpec = ResourcesSpec()
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seeds the adapter's initial weights and the order of the examples."""

    @property
    def guided(self) -> bool:
        """Whether anything beside the gradient of the training examples counts."""
        return self.method == "sgg" and self.guidance.variant != "off"

    @property
    def lonely(self) -> tuple[str, str] | None:
        """What keeps other runs out of this one's passes, and what to set instead; None where they can share them.

        Sums of a shared pass are rounded otherwise, draws of dropout would depend on the neighbours, a double backward
        needs a graph of its own, and the helpers on other GPUs know one adapter.
        """
        if self.resources.deterministic:
            return "resources.deterministic is true", "Set it to false"
        if self.lora.dropout > 0:
            return "lora.dropout is above 0", "Set it to 0"
        if self.resources.gpus > 1:
            return "resources.gpus is above 1", "Set it to 1"
        if self.method == "sgg" and self.guidance.variant == "exact":
            return "guidance.variant is 'exact'", "Use 'finite_difference'"
        return None
