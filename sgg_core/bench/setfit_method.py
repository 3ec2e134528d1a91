"""SetFit as a peer: started as a process, since what it depends on need not suit what we do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

from sgg_core.backbone import cache_directory, weights_directory
from sgg_core.bench.assignment import Assignment, NotApplicableError, Outcome

INTERPRETER = "SGG_SETFIT_PYTHON"


def setfit(given: Assignment) -> Outcome:
    """SetFit with its own defaults (one epoch over the pairs it makes) on the same encoder.

    Uses the interpreter that SGG_SETFIT_PYTHON names, else this one, if it has setfit.
    """
    if given.base.entry.kind != "encoder":
        raise NotApplicableError("SetFit needs a sentence encoder")
    interpreter = os.environ.get(INTERPRETER)
    if interpreter is None and find_spec("setfit") is None:
        raise NotApplicableError(f"setfit is not installed: pip install 'sgg[bench]', or point {INTERPRETER} at one")
    labels = list(given.training.labels)
    directory = given.base.directory or weights_directory(given.base.entry, cache_directory())
    with tempfile.TemporaryDirectory() as scratch:
        asked = {
            "directory": str(directory),
            "scratch": scratch,
            "seed": given.cell.seed,
            "texts": [example.text for example in given.training.classification],
            "labels": [labels.index(example.label) for example in given.training.classification],
            "test": [row["text"] for row in given.test],
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
    answer = json.loads(done.stdout.splitlines()[-1])
    return Outcome(torch.tensor(answer.pop("scores")), answer)
