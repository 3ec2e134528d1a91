"""SetFit as a peer: started as a process, since what it depends on need not suit what we do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sgg_core.backbone import LoadedBase
from sgg_core.base_files import cache_directory, weights_directory
from sgg_core.bench.assignment import Assignment, NotApplicableError, Outcome
from sgg_core.examples import ExampleSet

INTERPRETER = "SGG_SETFIT_PYTHON"


def setfit(given: Assignment) -> Outcome:
    """SetFit with its own defaults (one epoch over the pairs it makes) on the same encoder."""
    answer = run_setfit(given.base, given.training, [row["text"] for row in given.test], given.cell.seed)
    return Outcome(torch.tensor(answer.pop("scores")), answer)


def run_setfit(base: LoadedBase, training: ExampleSet, test: Sequence[str], seed: int) -> dict[str, Any]:
    """Let SetFit train on a classification file: `train_seconds`, and `scores` of the `test` texts.

    Uses the interpreter that SGG_SETFIT_PYTHON names, else this one, if it has setfit; else NotApplicableError is
    raised.
    """
    if base.entry.kind != "encoder":
        raise NotApplicableError("SetFit needs a sentence encoder")
    interpreter = os.environ.get(INTERPRETER)
    if interpreter is None and find_spec("setfit") is None:
        raise NotApplicableError(
            f"setfit is not installed: pip install '.[bench]' from a checkout, or point {INTERPRETER} at one"
        )
    labels = list(training.labels)
    directory = base.directory or weights_directory(base.entry, cache_directory())
    with tempfile.TemporaryDirectory() as scratch:
        asked = {
            "directory": str(directory),
            "scratch": scratch,
            "seed": seed,
            "texts": [example.text for example in training.classification],
            "labels": [labels.index(example.label) for example in training.classification],
            "test": list(test),
        }
        command = [interpreter or sys.executable, "-W", "ignore", str(Path(__file__).with_name("setfit_peer.py"))]
        environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, check=False, env=environment
        )
    if done.returncode != 0:
        raise NotApplicableError(
            f"setfit failed: {done.stderr.strip().splitlines()[-1] if done.stderr else 'no reason'}"
        )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
