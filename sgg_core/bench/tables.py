"""Tables of an accuracy benchmark in Markdown: means, intervals, paired differences, failed runs. No torch."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from sgg_core.bench.cells import Row
from sgg_core.card import table
from sgg_core.errors import SpecError
from sgg_core.spread import STUDENT, student_interval

FAILURE_MARGIN = 0.05
FEWEST_TASKS = 3
FEW = len(STUDENT) + 1  # so many values and fewer have Student's interval: a bootstrap one would be too narrow
DRAWS = 10_000
NOTE = f"""A pair is a task and a seed that both methods have, with equal test items. The interval over pairs says what
other examples of these tasks would give, the one over tasks what other tasks would (if these share no texts), since the
seeds of a task share its test items. Up to {FEW} values have Student's interval, more a bootstrap interval."""


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its 95 % interval, which one value alone has not."""

    mean: float
    low: float | None
    high: float | None

    def told(self, sign: str = "+") -> str:
        """As text, `sign` being what stands before positive numbers."""
        if self.low is None or self.high is None:
            return f"{self.mean:{sign}.3f}"
        return f"{self.mean:{sign}.3f} ({self.low:{sign}.3f} to {self.high:{sign}.3f})"


def interval(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Interval:
    """The mean of values that lie between `least` and `most`: of a few of them by Student's t.

    Of more by the 2.5 and 97.5 % quantiles of the means of resamples, which are the same each time.
    """
    if len(values) == 1:
        return Interval(values[0], None, None)
    if len(values) <= FEW:
        low, high = student_interval(values)
        return Interval(fmean(values), max(least, low), min(most, high))
    generator = random.Random(0)
    means = sorted(fmean(generator.choices(values, k=len(values))) for _ in range(DRAWS))
    return Interval(fmean(values), means[int(0.025 * DRAWS)], means[int(0.975 * DRAWS)])


Key = tuple[str, str, str, int]  # task, source, base model, shots


def selected(
    rows: Sequence[Row], tasks: Sequence[str], methods: Sequence[str], baselines: Sequence[str], seeds: int | None
) -> list[Row]:
    """Rows of these tasks, these methods and the baselines, and the first `seeds` seeds; without a choice, of all.

    Raises SpecError for a task or method without rows.
    """
    for kind, chosen, known in (
        ("task", tasks, {row.task for row in rows}),
        ("method", methods, {row.method for row in rows}),
    ):
        for name in chosen:
            if name not in known:
                raise SpecError(f"There is no row of the {kind} {name!r}.", f"There are {', '.join(sorted(known))}.")
    return [
        row
        for row in rows
        if (not tasks or row.task in tasks)
        and (not methods or row.method in methods or row.method in baselines)
        and (seeds is None or row.seed < seeds)
    ]


def groups(rows: Iterable[Row]) -> dict[Key, dict[str, dict[int, Row]]]:
    """Rows with an accuracy, by setting, method and seed."""
    found: dict[Key, dict[str, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row.accuracy is not None:
            found[row.task, row.source, row.base_model, row.shots][row.method][row.seed] = row
    return found


def paired(method: dict[int, Row], baseline: dict[int, Row]) -> list[float]:
    """Differences of accuracy on the seeds that both have, with equal test items."""
    return [
        (method[seed].accuracy or 0.0) - (baseline[seed].accuracy or 0.0)
        for seed in sorted({*method} & {*baseline})
        if method[seed].test_items == baseline[seed].test_items
    ]


def failed(rows: Iterable[Row]) -> float:
    """Share of runs that end below the majority label plus five points."""
    return fmean((row.accuracy or 0.0) < (row.majority or 0.0) + FAILURE_MARGIN for row in rows)


def setting_tables(rows: Sequence[Row], baseline: str) -> str:
    """One table for each task, source, base model and number of shots."""
    parts = []
    for (task, source, base_model, shots), methods in sorted(groups(rows).items()):
        origin = f" from {source}" if source else ""
        lines = []
        for name, by_seed in sorted(methods.items(), key=lambda item: -_mean(item[1])):
            values = [row.accuracy or 0.0 for row in by_seed.values()]
            differences = paired(by_seed, methods.get(baseline, {}))
            lines.append(
                (
                    name,
                    len(values),
                    interval(values, 0.0, 1.0).told(""),
                    f"{stdev(values):.3f}" if len(values) > 1 else "-",
                    f"{100 * failed(by_seed.values()):.0f} %",
                    _difference(differences) if name != baseline else "-",
                    _average(row.log_norm_change_std for row in by_seed.values()),
                    _average(row.directional_alignment for row in by_seed.values()),
                    _average(row.answer_alignment for row in by_seed.values()),
                    _average((row.train_seconds for row in by_seed.values()), ".1f"),
                )
            )
        title = f"### {task}{origin}, {base_model}, {shots} example{'' if shots == 1 else 's'} a label"
        parts.append(f"{title}\n\n{table(_header(baseline), lines)}")
    return "\n\n".join(parts)


def comparison_table(rows: Sequence[Row], baseline: str) -> str:
    """Each method over all tasks, by base model and shots, and what it is above the baseline: over pairs of the same
    task and seed, and over the means of three tasks or more."""
    by_setting = groups(rows)
    lines = []
    for kind_of_setting in sorted({_kind(key) for key in by_setting}):
        base_model, shots, cross = kind_of_setting
        settings = [(key[0], methods) for key, methods in sorted(by_setting.items()) if _kind(key) == kind_of_setting]
        for method in sorted({name for _, methods in settings for name in methods}):
            having = [(task, methods) for task, methods in settings if method in methods]
            mean = fmean(_mean(methods[method]) for _, methods in having)
            kind = "with source" if cross else "alone"
            of_it = (base_model, shots, kind, method, len({task for task, _ in having}), f"{mean:.3f}")
            by_task: dict[str, list[float]] = defaultdict(list)
            for task, methods in having if method != baseline else ():
                by_task[task] += paired(methods[method], methods.get(baseline, {}))
            lines.append((*of_it, *_compared([differences for differences in by_task.values() if differences])))
    header = ("base model", "shots", "target", "method", "tasks", "mean accuracy", "pairs")
    compared = (f"less {baseline}, over pairs (95 %)", "ahead", "behind", "over tasks (95 %)")
    return f"{table((*header, *compared), lines)}\n\n{NOTE}"


def _compared(by_task: Sequence[Sequence[float]]) -> tuple[int | str, ...]:
    """Number of pairs, mean difference over them, in how many a method is ahead and behind, and the mean over tasks."""
    pairs = [difference for differences in by_task for difference in differences]
    if not pairs:
        return ("-",) * 5
    ahead, behind = sum(each > 0 for each in pairs), sum(each < 0 for each in pairs)
    over_tasks = _difference([fmean(each) for each in by_task]) if len(by_task) >= FEWEST_TASKS else "-"
    return len(pairs), _difference(pairs), ahead, behind, over_tasks


def _difference(differences: Sequence[float]) -> str:
    return interval(differences, -1.0, 1.0).told() if differences else "-"


def _kind(key: Key) -> tuple[str, int, bool]:
    """Base model, shots, and whether there is a source."""
    return key[2], key[3], bool(key[1])


def _header(baseline: str) -> tuple[str, ...]:
    accuracy = ("method", "seeds", "accuracy (95 %)", "std", "failed", f"less {baseline}, paired (95 %)")
    return (*accuracy, "std of log-norm change", "directional alignment", "of answers", "seconds")


def _mean(by_seed: dict[int, Row]) -> float:
    return fmean(row.accuracy or 0.0 for row in by_seed.values())


def _average(values: Iterable[float | None], form: str = ".3f") -> str:
    known = [value for value in values if value is not None]
    return format(fmean(known), form) if known else "-"
