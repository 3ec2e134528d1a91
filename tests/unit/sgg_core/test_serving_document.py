"""The program that docs/serving.md prints gives what we give, with peft alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sgg_core.base_loading import load_base
from sgg_core.catalogue import Catalogue
from sgg_core.predictor import load_predictor
from sgg_core.reporting import SilentReporter
from sgg_core.tiny import save_tiny_base
from sgg_core.trainer import train

PAGE = Path(__file__).parents[3] / "docs" / "serving.md"


def test_the_printed_program_gives_the_probabilities_of_our_predictor(training, spec_for, tmp_path):
    entry = save_tiny_base(tmp_path / "base", "causal")
    base = load_base(entry)
    train(spec_for(base), base, training, output=tmp_path / "adapter", reporter=SilentReporter())
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (program,) = [each for each in programs if "from peft" in each]
    text = "a fine day"
    command = [sys.executable, "-c", program, str(tmp_path / "base"), str(tmp_path / "adapter"), text]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    (ours,) = load_predictor(tmp_path / "adapter", catalogue=Catalogue((entry,)), base=base).predict([{"text": text}])
    assert said == pytest.approx(ours["probabilities"], abs=1e-4)
