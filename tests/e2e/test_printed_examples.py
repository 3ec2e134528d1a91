"""The programs printed in the README, run as they are printed, with the base model and the data that they name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli.bundle import unpack

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
pytestmark = pytest.mark.base_model


def printed(language, containing):
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if containing in block]
    return block


@pytest.fixture
def run(own_service, tmp_path):
    """Runs a program in a directory where it finds examples/ and may leave files."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "examples").symlink_to(ROOT / "examples")
    environment = own_service.environment | {"SGG_API_KEY": (own_service.data_dir / "admin-key").read_text().strip()}

    def run_program(*command):
        result = subprocess.run(
            command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run_program.directory = tmp_path / "here"
    return run_program


def test_the_openai_client(run):
    assert run(sys.executable, "-c", printed("python", "openai")).startswith("succeeded ft:smollm2-135m-instruct:")
    assert unpack(run.directory / "adapter.tar.gz", run.directory / "adapter") > 5


def test_curl(run):
    said = run("bash", "-euo", "pipefail", "-c", printed("bash", "curl"))
    assert '"succeeded"' in said
    assert "fine_tuning.job.event" in said
