"""One training job in a process of its own: reads a JSON assignment, says that it is ready, and begins when told to.

What a peer costs that gives every job a process. Its start is not counted: it waits with the base model in memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from sgg_core.base_loading import load_base
from sgg_core.bench.throughput import turn
from sgg_core.catalogue import BaseModelEntry
from sgg_core.examples import parse_examples
from sgg_core.spec import TrainingSpec


def at_once(
    entry: BaseModelEntry, data: tuple[str, bytes], specs: Sequence[TrainingSpec], steps: int
) -> tuple[float, list[int]]:
    """Train a job for each spec at the same time on a named file: seconds until the last has ended, tokens of each.

    The processes share this one's threads.
    """
    threads = max(1, torch.get_num_threads() // len(specs))
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-W", "ignore", "-m", "sgg_core.bench.one_job"]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in specs
    ]
    name, content = data
    try:
        for child, spec in zip(children, specs, strict=True):
            asked = {"entry": entry.model_dump(mode="json"), "spec": spec.model_dump(mode="json"), "steps": steps}
            _tell(child, asked | {"name": name, "content": content.decode()})
        for child in children:
            _answer(child)
        begun = time.perf_counter()
        for child in children:
            _tell(child, "go")
        tokens = [int(_answer(child)) for child in children]
        return time.perf_counter() - begun, tokens
    finally:
        for child in children:
            child.kill()
            child.communicate()


def main() -> None:
    """Wait with the base model in memory, then train; print how many tokens that was."""
    asked = json.loads(sys.stdin.readline())
    base = load_base(BaseModelEntry.model_validate(asked["entry"]))
    examples = parse_examples(asked["content"].encode(), asked["name"])
    spec = TrainingSpec.model_validate(asked["spec"])
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    _, (reporter,) = turn(base, examples, [spec], asked["steps"], packed=False)
    print(json.dumps(reporter.tokens()), flush=True)


def _tell(child: subprocess.Popen[str], message: Any) -> None:
    assert child.stdin is not None
    child.stdin.write(json.dumps(message) + "\n")
    child.stdin.flush()


def _answer(child: subprocess.Popen[str]) -> Any:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"A process that trains one job ended with status {child.wait()} before it answered.")
    return json.loads(line)


if __name__ == "__main__":
    main()
