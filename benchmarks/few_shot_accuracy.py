"""Few-shot accuracy of the methods on classification sets that you have on disk.

    python benchmarks/few_shot_accuracy.py run DIR... --base-model NAME --shots 16 --seeds 0 1 2 3 4 --csv FILE
    python benchmarks/few_shot_accuracy.py table FILE

A set is a folder with train.jsonl and test.jsonl, one {"text", "label"} object a line. Per seed, `shots` examples of
each label are drawn from train.jsonl; every method sees the same ones, its defaults, and no validation file. Accuracy
is over a fixed random subset of test.jsonl. Runs that the CSV already holds are skipped, so a killed run goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

FIELDS = [
    "task", "base_model", "method", "shots", "seed", "test_items", "accuracy", "macro_f1", "steps", "train_seconds",
    "train_loss", "log_norm_change_std", "abnormal_share", "reference_cosine", "path_efficiency", "verified",
]  # fmt: skip
DESCRIPTIONS = {
    "sst2": "Is the movie review positive or negative?",
    "mr": "Is the movie review positive or negative?",
    "sst5": "How good does the movie review say the movie is?",
    "agnews": "What is the news article about?",
    "trec": "What does the question ask for?",
    "clinc150": "What does the user want?",
}


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def draw(rows: list[dict[str, str]], shots: int, seed: int, task: str) -> list[dict[str, str]]:
    """`shots` rows of each label, the same for every method."""
    by_label: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_label[row["label"]].append(row)
    rng = random.Random(f"{task}-{shots}-{seed}")
    return [row for label in sorted(by_label) for row in rng.sample(by_label[label], shots)]


def measure(base: Any, task: str, method: str, shots: int, seed: int, folder: Path, items: int) -> dict[str, Any]:
    """Train one adapter, load it from its directory, and score it."""
    from sgg_core.adapter import load_predictor
    from sgg_core.catalogue import Catalogue
    from sgg_core.examples import parse_examples
    from sgg_core.figures import classification_figures
    from sgg_core.report import TrainingReport
    from sgg_core.reporting import SilentReporter
    from sgg_core.spec import TaskSpec, TrainingSpec
    from sgg_core.trainer import train

    support = draw(read_rows(folder / "train.jsonl"), shots, seed, task)
    test = read_rows(folder / "test.jsonl")
    test = random.Random(f"{task}-test").sample(test, min(items, len(test)))
    training = parse_examples("\n".join(map(json.dumps, support)).encode(), "train.jsonl")
    spec = TrainingSpec(
        base_model=base.entry.name, method=method, seed=seed, task=TaskSpec(description=DESCRIPTIONS.get(task))
    )
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "adapter"
        begun = time.perf_counter()
        train(spec, base, training, output=output, reporter=SilentReporter())
        seconds = time.perf_counter() - begun
        report = TrainingReport.model_validate_json((output / "report.json").read_bytes())
        predictor = load_predictor(output, catalogue=Catalogue.load(), base=base)
        answers = [answer["label"] for answer in predictor.predict([{"text": row["text"]} for row in test])]
        predictor.close()
    labels = list(training.labels)
    figures = classification_figures(
        [labels.index(row["label"]) for row in test], [labels.index(answer) for answer in answers], labels
    )
    return {
        "task": task, "base_model": base.entry.name, "method": method, "shots": shots, "seed": seed,
        "test_items": len(test), "accuracy": round(figures.accuracy, 4), "macro_f1": round(figures.macro_f1 or 0, 4),
        "steps": report.steps, "train_seconds": round(seconds, 1), "train_loss": round(report.final.train_loss, 4),
        "log_norm_change_std": round(report.stability.log_norm_change_std or 0, 4),
        "abnormal_share": round(report.stability.abnormal_share, 4),
        "reference_cosine": round(report.direction.reference_cosine_mean or 0, 4),
        "path_efficiency": round(report.direction.path_efficiency or 0, 4), "verified": report.verification.reloaded,
    }  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    from sgg_core.backbone import load_base
    from sgg_core.catalogue import Catalogue

    done = set()
    if arguments.csv.exists():
        with arguments.csv.open(newline="") as stream:
            done = {
                tuple(row[name] for name in ("task", "base_model", "method", "shots", "seed"))
                for row in csv.DictReader(stream)
            }
    base = load_base(Catalogue.load().get(arguments.base_model))
    for folder in arguments.folders:
        for seed in arguments.seeds:
            for method in arguments.methods:
                key = (folder.name, arguments.base_model, method, str(arguments.shots), str(seed))
                if key in done:
                    continue
                row = measure(base, folder.name, method, arguments.shots, seed, folder, arguments.test_items)
                fresh = not arguments.csv.exists()
                with arguments.csv.open("a", newline="") as stream:
                    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
                    if fresh:
                        writer.writeheader()
                    writer.writerow(row)
                print(json.dumps(row), flush=True)


def table(arguments: argparse.Namespace) -> None:
    """Means over seeds, and the paired difference to plain LoRA with a 95 % bootstrap interval."""
    with arguments.csv.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    groups: dict[tuple[str, ...], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        key = (row["task"], row["base_model"], row["shots"])
        groups[key][row["method"]][row["seed"]] = float(row["accuracy"])
    print("| set | base model | shots | seeds | plain LoRA | SGG | SGG less plain, paired (95 % interval) |")
    print("|---|---|---|---|---|---|---|")
    for (task, base_model, shots), methods in sorted(groups.items()):
        plain, guided = methods.get("supervised", {}), methods.get("sgg", {})
        seeds = sorted(set(plain) & set(guided))
        low, mean, high = interval([guided[seed] - plain[seed] for seed in seeds])
        print(
            f"| {task} | {base_model} | {shots} | {len(seeds)} | {spread(plain)} | {spread(guided)} "
            f"| {mean:+.3f} ({low:+.3f} to {high:+.3f}) |"
        )


def spread(values: dict[str, float]) -> str:
    deviation = statistics.stdev(values.values()) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values.values()):.3f} (std {deviation:.3f})"


def interval(differences: list[float], draws: int = 10_000) -> tuple[float, float, float]:
    rng = random.Random(0)
    means = sorted(statistics.fmean(rng.choices(differences, k=len(differences))) for _ in range(draws))
    return means[int(0.025 * draws)], statistics.fmean(differences), means[int(0.975 * draws)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run")
    runner.add_argument("folders", nargs="+", type=Path)
    runner.add_argument("--base-model", required=True)
    runner.add_argument("--shots", type=int, default=16)
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    runner.add_argument("--methods", nargs="+", default=["supervised", "sgg"])
    runner.add_argument("--test-items", type=int, default=500)
    runner.add_argument("--csv", type=Path, required=True)
    runner.set_defaults(act=run)
    printer = commands.add_parser("table")
    printer.add_argument("csv", type=Path)
    printer.set_defaults(act=table)
    arguments = parser.parse_args()
    arguments.act(arguments)


if __name__ == "__main__":
    main()
