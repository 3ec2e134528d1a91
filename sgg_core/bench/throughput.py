"""Jobs an hour on one base model: many small jobs trained together (sgg_core.packed), against one after the other.

Both ways run in turns within one process, so that other load on the machine hits both. A job is what comes before its
adapter is written: the set-up and some steps, with the defaults of the product and a seed of its own. What follows the
last step is the same work either way. One after the other, n jobs take n times as long as one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sgg_core.backbone import LoadedBase
from sgg_core.base_loading import load_base
from sgg_core.bench.machine import this_machine
from sgg_core.bench.overhead import StepsOnly
from sgg_core.card import table
from sgg_core.catalogue import BaseModelEntry
from sgg_core.examples import ExampleSet, read_examples
from sgg_core.packed.train import PackedJob, train_packed
from sgg_core.spec import OptimizationSpec, TrainingSpec


@dataclass(frozen=True)
class Setting:
    """What is trained on, and how many steps each job takes."""

    entry: BaseModelEntry
    data: Path
    steps: int


def compare(setting: Setting, counts: Sequence[int], rounds: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """A line for each number of jobs: jobs an hour both ways (of medians), their ratio, and the tokens of packs."""
    base, examples = load_base(setting.entry), read_examples(setting.data)
    alone: list[float] = []
    packed: dict[int, list[float]] = {count: [] for count in counts}
    tokens: dict[int, int] = {}

    def seconds(count: int, packed: bool) -> float:
        specs = [_spec(base, setting.steps, seed) for seed in range(count)]
        taken, reporters = turn(base, examples, specs, setting.steps, packed)
        tokens[count] = sum(reporter.tokens() for reporter in reporters)
        return taken

    seconds(1, packed=False)  # warms the memory up
    for number in range(rounds):
        alone.append(seconds(1, packed=False))
        tell(f"round {number + 1} of {rounds}, one job alone: {alone[-1]:.1f} s")
        for count, found in packed.items():
            found.append(seconds(count, packed=True))
            tell(f"round {number + 1} of {rounds}, {count} packed: {found[-1]:.1f} s, {found[-1] / count:.1f} s a job")
    one_by_one = 3600 / median(alone)
    lines = []
    for count, found in packed.items():
        together = 3600 * count / median(found)
        line: dict[str, Any] = {"jobs": count, "seconds": round(median(found), 3)}
        line |= {"jobs_an_hour": round(together, 1), "jobs_an_hour_one_by_one": round(one_by_one, 1)}
        line |= {"ratio": round(together / one_by_one, 2), "tokens_a_second": round(tokens[count] / median(found))}
        lines.append(line | {"machine": this_machine().in_words()})
    return lines


def as_table(lines: list[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    header = ["jobs", "seconds, packed", "jobs an hour, packed", "one after the other", "ratio", "tokens/s, packed"]
    keys = ("jobs", "seconds", "jobs_an_hour", "jobs_an_hour_one_by_one", "ratio", "tokens_a_second")
    return table(header, [[line[key] for key in keys] for line in lines])


def turn(
    base: LoadedBase, examples: ExampleSet, specs: Sequence[TrainingSpec], steps: int, packed: bool
) -> tuple[float, list[StepsOnly]]:
    """Seconds that a job for each spec takes up to its last step, in a pack or one after the other, and what they said.

    The specs have to ask for more than these steps, so that no adapter is written.
    """
    reporters = [StepsOnly(steps) for _ in specs]
    with tempfile.TemporaryDirectory() as scratch:
        jobs = [
            PackedJob(spec, examples, Path(scratch) / str(number), reporter)
            for number, (spec, reporter) in enumerate(zip(specs, reporters, strict=True))
        ]
        begun = time.perf_counter()
        if packed:
            for ended in train_packed(base, jobs):
                if isinstance(ended, Exception):
                    raise ended
        else:
            for job in jobs:
                job.train(base)
        return time.perf_counter() - begun, reporters


def _spec(base: LoadedBase, steps: int, seed: int) -> TrainingSpec:
    # one more step than is taken: the reporter ends the job before its adapter is written
    optimization = OptimizationSpec(epochs=1000, max_steps=steps + 1)
    return TrainingSpec(base_model=base.entry.name, seed=seed, optimization=optimization)
