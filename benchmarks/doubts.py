"""How many planted wrong labels are among the first of a job's training examples by suspicion.

    python benchmarks/doubts.py --data DIRECTORY --out docs/results/doubts --model all-minilm-l6-v2

DIRECTORY holds one folder a data set with a train.jsonl of "text" and "label". For each planting 80 examples are drawn,
evenly over the labels, and 5 of them get another label at random. `found` is the share of these 5 among the 10 that
`sgg_core.doubts` ranks first, as the mean over 10 plantings. The examples of all plantings come from 240 of each data
set, so that the base models read each of them once.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from commands import command
from torch import Tensor

from sgg_core.base_loading import load_base
from sgg_core.catalogue import Catalogue
from sgg_core.doubts import look, read, scores
from sgg_core.shapes import ClassificationExample
from sgg_core.tasks.choice import task_for

SETS = ("agnews", "mr", "trec", "sst2")  # the first two chose layers and weights, with the others in sight
MODELS = ("smollm2-135m-instruct", "all-minilm-l6-v2")
PLANTINGS, EXAMPLES, WRONG, SHOWN, POOL = 10, 80, 5, 10, 240


@dataclass(frozen=True)
class Planting:
    """Indices in the pool, the labels given to them, and the places of the wrong ones."""

    chosen: list[int]
    given: Tensor
    wrong: set[int]


def pool(path: Path, name: str) -> tuple[list[str], list[dict[str, str]]]:
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    labels = sorted({row["label"] for row in rows})
    random.Random(name).shuffle(rows)
    found: list[dict[str, str]] = []
    for label in labels:
        found += [row for row in rows if row["label"] == label][: POOL // len(labels)]
    return labels, found


def planting(labels: Sequence[str], rows: Sequence[dict[str, str]], seed: str) -> Planting:
    draw = random.Random(seed)
    left = {label: [i for i, row in enumerate(rows) if row["label"] == label] for label in labels}
    for indices in left.values():
        draw.shuffle(indices)
    chosen: list[int] = []
    while len(chosen) < EXAMPLES:
        chosen += [indices.pop() for indices in left.values() if indices][: EXAMPLES - len(chosen)]
    given = [labels.index(rows[index]["label"]) for index in chosen]
    wrong = draw.sample(range(EXAMPLES), WRONG)
    for place in wrong:
        given[place] = draw.choice([label for label in range(len(labels)) if label != given[place]])
    return Planting(chosen, torch.tensor(given), set(wrong))


def found(rank: Tensor, wrong: set[int]) -> float:
    return len(wrong & set(rank.argsort(descending=True)[:SHOWN].tolist())) / len(wrong)


VIEWS: dict[str, Callable[[dict[str, Tensor]], Tensor | None]] = {
    "probes": lambda by: torch.stack([each for name, each in by.items() if name.startswith("probe")]).sum(0),
    "own word": lambda by: by.get("own word"),  # none where an encoder's is not heard
    "gradient": lambda by: by["gradient"],
    "all": lambda by: torch.stack(list(by.values())).sum(0),
}


def judge(model: str, data: Path) -> dict[str, Any]:
    base = load_base(Catalogue().get(model))
    result: dict[str, Any] = {}
    for name in SETS:
        labels, rows = pool(data / name / "train.jsonl", name)
        task = task_for(base, "classification", labels, None, 512)
        items = task.encode([ClassificationExample(row["text"], row["label"]) for row in rows])
        states, spoken = read(task, items)  # type: ignore[arg-type]
        hits: dict[str, list[float]] = {view: [] for view in VIEWS}
        for number in range(PLANTINGS):
            plan = planting(labels, rows, f"{name}-{number}")
            chosen = [each[plan.chosen] for each in states]
            by_name = base.entry.kind == "encoder"
            views = look(chosen, spoken[plan.chosen], plan.given, len(labels), by_name=by_name)
            by_view = scores(views, plan.given)
            for view, combined in VIEWS.items():
                rank = combined(by_view)
                if rank is not None:
                    hits[view].append(found(rank, plan.wrong))
        result[name] = {view: round(statistics.mean(each), 3) for view, each in hits.items() if each}
        result[name]["all, each planting"] = hits["all"]
        print(model, name, result[name], file=sys.stderr, flush=True)
    return result


def table(results: dict[str, dict[str, Any]], typed: str) -> str:
    lines = [
        "# Suspicious labels",
        "",
        f"{WRONG} wrong labels were planted in {EXAMPLES} training examples. The table gives the share of them among",
        f"the {SHOWN} examples that are shown first, as the mean over {PLANTINGS} plantings. Layers and weights were",
        "chosen on agnews and mr, with trec and sst2 in sight.",
        "",
        f"| base model | view | {' | '.join(SETS)} | mean |",
        f"|---|---|{'---|' * (len(SETS) + 1)}",
    ]
    for model, sets in results.items():
        for view in VIEWS:
            if all(view in sets[name] for name in SETS):  # not where an encoder's own word is not always heard
                values = [sets[name][view] for name in SETS]
                cells = " | ".join(f"{value:.2f}" for value in (*values, statistics.mean(values)))
                lines.append(f"| {model} | {view} | {cells} |")
    return "\n".join([*lines, "", "<!-- run: no, because it takes minutes -->", "```bash", typed, "```", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="Path of the results, without .json and .md.")
    parser.add_argument("--model", action="append", choices=MODELS, help="One of them; the others' results are kept.")
    options = parser.parse_args()
    file = options.out.with_suffix(".json")
    kept = json.loads(file.read_text())["found"] if file.exists() else {}
    results = kept | {model: judge(model, options.data) for model in options.model or MODELS}
    typed = command(["benchmarks/doubts.py", "--data", "DIRECTORY", "--out", str(options.out)])
    file.write_text(json.dumps({"command": typed, "found": results}, indent=2) + "\n")
    options.out.with_suffix(".md").write_text(table(results, typed))


if __name__ == "__main__":
    main()
