"""One few-shot job's time, and jobs an hour, against other ways to train the same jobs.

All ways take turns within each round, so that other load on the machine hits all of them. Figures are of the quickest
turn of each way, since other load only adds to it, and ratios of them. Processor time, of what this process does
itself, is told beside, for machines that have much else to do. A turn is what comes before an adapter is written: the
set-up and some steps, with the base model in memory. The ways of one group train the same examples with the same rank,
batches and learning rates: transformers' Trainer with peft has our losses up to rounding, which is why its time can be
compared (completions and chats for a causal language model, whose loss over label words others do not have). SetFit
does another work: its own defaults stand against a whole job by ours, from the set-up to the verified adapter.

The share of the limit is that of the arithmetic that the jobs' tokens ask for, at the rate of a large matrix product
measured in the same rounds: 4 N operations a token for a step of plain LoRA and 8 N for a guided one, N being the
weights of the base model without its embeddings. Padding, attention and set-up count as lost; what examples have in
common, and is computed once, as won.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sgg_core.backbone import LoadedBase
from sgg_core.base_loading import load_base
from sgg_core.bench import assignment
from sgg_core.bench.arithmetic import matmul_rate
from sgg_core.bench.assignment import NotApplicableError
from sgg_core.bench.machine import this_machine
from sgg_core.bench.one_job import at_once
from sgg_core.bench.setfit_method import run_setfit
from sgg_core.bench.throughput import turn
from sgg_core.bench.trainer_peer import train_with_trainer
from sgg_core.card import table
from sgg_core.catalogue import BaseModelEntry
from sgg_core.errors import SpecError
from sgg_core.examples import ExampleSet, parse_examples
from sgg_core.reporting import SilentReporter
from sgg_core.spec import TrainingSpec
from sgg_core.trainer import train

ONE = "SGG, plain LoRA"
GUIDED = "SGG, each step guided"
PACKED = "SGG, jobs packed"
PACKED_GUIDED = "SGG, jobs packed, each step guided"
TRAINER = "transformers Trainer, peft LoRA"
PROCESSES = "a process for each job, at once"
WHOLE = "SGG, a whole job by its defaults"
SETFIT = "SetFit by its defaults"
LAST_STEPS = 5  # whose losses are told, as their mean


@dataclass(frozen=True)
class Setting:
    """What is trained on (a named file), how long a turn is, how many jobs packs have, and how many processes train."""

    entry: BaseModelEntry
    data: tuple[str, bytes]
    steps: int
    batch_size: int
    jobs: tuple[int, ...]
    processes: int
    setfit: bool

    def examples(self) -> ExampleSet:
        """The file's examples."""
        name, content = self.data
        return parse_examples(content, name)

    def spec(self, seed: int = 0, **groups: Any) -> TrainingSpec:
        """Plain LoRA on cross-entropy, but for what `groups` say; one step more than is taken, see `turn`."""
        optimization = {"epochs": 1000, "max_steps": self.steps + 1, "batch_size": self.batch_size}
        fields = {"base_model": self.entry.name, "seed": seed, "method": "supervised", "optimization": optimization}
        return TrainingSpec.model_validate(fields | {"task": {"objective": "cross_entropy"}} | groups)


@dataclass(frozen=True)
class Turn:
    """Seconds of all jobs of a way, their tokens (0: not known), and the loss that the first job ended with."""

    seconds: float
    tokens: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class Way:
    """How jobs are trained: `jobs` at once, `gradients` for each step, compared with `against` (a way and its jobs)."""

    name: str
    turn: Callable[[], Turn]
    here: bool  # whether this process does all of it
    jobs: int = 1
    gradients: int = 1
    against: tuple[str, int] = (ONE, 1)
    pack: int | None = None  # jobs whose steps, of plain LoRA, go through the network together

    @property
    def key(self) -> tuple[str, int]:
        """Tells it from the others."""
        return self.name, self.jobs


def few_shot(path: Path, shots: int) -> tuple[str, bytes]:
    """Name and content of a classification file with its first `shots` examples of each label; other files whole."""
    content = path.read_bytes()
    examples = parse_examples(content, path.name)
    if examples.kind != "classification":
        return path.name, content
    seen: Counter[str] = Counter()
    kept = []
    for example in examples.classification:
        seen[example.label] += 1
        if seen[example.label] <= shots:
            pair = {} if example.text_pair is None else {"text_pair": example.text_pair}
            kept.append(json.dumps({"text": example.text, "label": example.label} | pair))
    return f"{path.stem}.jsonl", "\n".join(kept).encode()


def compare(setting: Setting, rounds: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """A line for each way: seconds, ratios, losses, tokens a second and share of the limit."""
    base = load_base(setting.entry)
    ways = _ways(base, setting, tell)
    turns: dict[tuple[str, int], list[Turn]] = {way.key: [] for way in ways}
    processor: dict[tuple[str, int], list[float]] = {way.key: [] for way in ways}
    rates: list[float] = []
    for number in range(rounds):
        rates.append(matmul_rate(base.device))
        for way in ways:
            begun = time.process_time()
            turns[way.key].append(newest := way.turn())
            processor[way.key].append(time.process_time() - begun)
            each = f", {newest.seconds / way.jobs:.3f} s a job" if way.jobs > 1 else ""
            tell(f"round {number + 1} of {rounds}, {way.name}: {newest.seconds:.2f} s{each}")
    lines = _lines(base, ways, turns, max(rates))
    for line, way in zip(lines, ways, strict=True):
        own = min(processor[way.key]) / way.jobs
        line["processor_ratio"] = round(own / min(processor[ONE, 1]), 2) if way.here else None
    return lines


def as_table(lines: list[dict[str, Any]]) -> str:
    """The lines as Markdown. A ratio of 2 means twice the time of what it is compared with."""
    keys = ["way", "jobs", "seconds_a_job", "ratio", "processor_ratio", "against", "jobs_an_hour"]
    keys += ["loss", "tokens_a_second", "share"]
    header = ["way", "jobs", "seconds a job", "ratio", "of processor time", "to", "jobs an hour"]
    header += ["loss", "tokens/s", "share of the limit"]
    shown = [["-" if line[key] is None else line[key] for key in keys] for line in lines]
    return table(header, shown)


def _ways(base: LoadedBase, setting: Setting, tell: Callable[[str], None]) -> list[Way]:
    if setting.entry.kind == "causal" and setting.examples().kind == "classification":
        raise SpecError(
            "A causal language model learns label words by a loss that transformers' Trainer does not have.",
            "Give --train completions or chats, or --model an encoder.",
        )
    spec, examples = setting.spec(), setting.examples()

    def specs(count: int) -> list[TrainingSpec]:
        return [setting.spec(seed) for seed in range(count)]

    def guided(count: int) -> list[TrainingSpec]:
        at_once = spec.optimization.model_copy(update={"warmup_fraction": 0.0})
        every = {"every": 1, "ramp_fraction": 0.0}
        return [setting.spec(seed, method="sgg", guidance=every, optimization=at_once) for seed in range(count)]

    def ours(*specs: TrainingSpec, packed: bool = False) -> Turn:
        seconds, reporters = turn(base, examples, specs, setting.steps, packed)
        loss = _last(reporters[0].losses())
        return Turn(seconds, sum(reporter.tokens() for reporter in reporters), loss)

    one = ours(spec)  # warms the memory up

    def trainer() -> Turn:
        seconds, losses = train_with_trainer(base, examples, spec, setting.steps)
        return Turn(seconds, one.tokens, _last(losses))

    def processes() -> Turn:
        seconds, tokens = at_once(setting.entry, setting.data, specs(setting.processes), setting.steps)
        return Turn(seconds, sum(tokens))

    def packed(count: int) -> list[Way]:
        plain, every = partial(ours, *specs(count), packed=True), partial(ours, *guided(count), packed=True)
        against = (PACKED, count)
        return [
            Way(PACKED, plain, True, count, pack=count),
            Way(PACKED_GUIDED, every, True, count, gradients=2, against=against),
        ]

    ways = [
        Way(ONE, lambda: ours(spec), True, pack=1),
        Way(TRAINER, trainer, True),
        *([Way(PROCESSES, processes, False, setting.processes)] if setting.processes else []),
        Way(GUIDED, lambda: ours(*guided(1)), True, gradients=2),
        *(way for count in setting.jobs for way in packed(count)),
    ]
    if setting.setfit:
        try:
            run_setfit(base, _two_texts(), ["good"], 0)
        except NotApplicableError as error:
            tell(f"Without SetFit: {error}")
        else:
            ways.append(Way(WHOLE, lambda: _whole(base, examples), False, against=(WHOLE, 1)))
            ways.append(Way(SETFIT, lambda: _setfit(base, examples), False, against=(WHOLE, 1)))
    return ways


def _lines(
    base: LoadedBase, ways: Sequence[Way], turns: dict[tuple[str, int], list[Turn]], rate: float
) -> list[dict[str, Any]]:
    embeddings = base.model.get_input_embeddings().weight.numel()
    weights = sum(parameter.numel() for parameter in base.model.parameters()) - embeddings
    a_job = {way.key: min(found.seconds for found in turns[way.key]) / way.jobs for way in ways}
    lines = []
    for way in ways:
        own, newest = a_job[way.key], turns[way.key][-1]
        seconds = own * way.jobs
        speed = newest.tokens / seconds
        line: dict[str, Any] = {"way": way.name, "jobs": way.jobs, "seconds": round(seconds, 3)}
        line |= {"seconds_a_job": round(own, 4), "ratio": round(own / a_job[way.against], 3)}
        line |= {"against": way.against[0], "jobs_an_hour": round(3600 / own, 1)}
        line["loss"] = None if newest.loss is None else round(newest.loss, 4)
        line["tokens_a_second"] = round(speed) if newest.tokens else None
        line["share"] = round(4 * weights * way.gradients * speed / rate, 4) if newest.tokens else None
        line |= {} if way.pack is None else {"pack": way.pack}
        lines.append(line | {"limit": round(rate / 1e9, 1), "machine": this_machine().in_words()})
    return lines


def _whole(base: LoadedBase, examples: ExampleSet) -> Turn:
    reporter = SilentReporter()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        spec = TrainingSpec(base_model=base.entry.name)
        train(spec, base, examples, output=Path(scratch) / "adapter", reporter=reporter)
    return Turn(time.perf_counter() - begun)


def _setfit(base: LoadedBase, examples: ExampleSet) -> Turn:
    return Turn(run_setfit(base, examples, ["one"], 0)["train_seconds"])


def _two_texts() -> ExampleSet:
    rows = [{"text": f"{word} {number}", "label": word} for word in ("good", "bad") for number in range(2)]
    return assignment.examples(rows, "two.jsonl")


def _last(losses: list[float]) -> float:
    kept = losses[-LAST_STEPS:]
    return sum(kept) / len(kept)
