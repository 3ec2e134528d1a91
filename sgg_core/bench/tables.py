"""Tables of an accuracy benchmark in Markdown: means, intervals, paired differences, failed runs. No torch."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from sgg_core.bench.cells import Row
from sgg_core.card import table

FAILURE_MARGIN = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def bootstrap(values: Sequence[float], draws: int = 10_000) -> Interval:
    """The mean of `values` and the 2.5 and 97.5 % quantiles of the means of resamples; the same each time."""
    generator = random.Random(0)
    means = sorted(fmean(generator.choices(values, k=len(values))) for _ in range(draws))
    return Interval(fmean(values), means[int(0.025 * draws)], means[int(0.975 * draws)])


Key = tuple[str, str, str, int]  # task, source, base model, shots


def groups(rows: Iterable[Row]) -> dict[Key, dict[str, dict[int, Row]]]:
    """Rows with an accuracy, by setting, method and seed."""
    found: dict[Key, dict[str, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row.accuracy is not None:
            found[row.task, row.source, row.base_model, row.shots][row.method][row.seed] = row
    return found


def paired(method: dict[int, Row], baseline: dict[int, Row]) -> list[float]:
    """Differences of accuracy on the seeds that both have."""
    return [
        (method[seed].accuracy or 0.0) - (baseline[seed].accuracy or 0.0) for seed in sorted({*method} & {*baseline})
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
            whole = bootstrap(values)
            differences = paired(by_seed, methods.get(baseline, {}))
            lines.append(
                (
                    name,
                    len(values),
                    f"{whole.mean:.3f} ({whole.low:.3f} to {whole.high:.3f})",
                    f"{stdev(values):.3f}" if len(values) > 1 else "-",
                    f"{100 * failed(by_seed.values()):.0f} %",
                    str(bootstrap(differences)) if differences and name != baseline else "-",
                    _average(row.log_norm_change_std for row in by_seed.values()),
                    _average(row.directional_alignment for row in by_seed.values()),
                    _average(row.answer_alignment for row in by_seed.values()),
                    _average((row.train_seconds for row in by_seed.values()), ".1f"),
                )
            )
        title = f"### {task}{origin}, {base_model}, {shots} example{'' if shots == 1 else 's'} a label"
        parts.append(f"{title}\n\n{table(_header(baseline), lines)}")
    return "\n\n".join(parts)


def summary_table(rows: Sequence[Row], baseline: str) -> str:
    """Each method over all tasks, by base model and shots: a seed's difference is its mean over the tasks."""
    by_setting = groups(rows)
    lines = []
    for kind_of_setting in sorted({_kind(key) for key in by_setting}):
        base_model, shots, cross = kind_of_setting
        settings = [methods for key, methods in sorted(by_setting.items()) if _kind(key) == kind_of_setting]
        for method in sorted({name for methods in settings for name in methods}):
            having = [methods for methods in settings if method in methods]
            differences: dict[int, list[float]] = defaultdict(list)
            for methods in having:
                for seed in {*methods[method]} & {*methods.get(baseline, {})}:
                    differences[seed] += paired({seed: methods[method][seed]}, {seed: methods[baseline][seed]})
            means = [fmean(values) for values in differences.values()]
            mean = fmean(_mean(methods[method]) for methods in having)
            kind = "with source" if cross else "alone"
            shown = str(bootstrap(means)) if means and method != baseline else "-"
            lines.append((base_model, shots, kind, method, len(having), f"{mean:.3f}", shown))
    header = ("base model", "shots", "target", "method", "tasks", "mean accuracy", f"less {baseline}, paired (95 %)")
    return table(header, lines)


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
