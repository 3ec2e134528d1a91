"""The install steps of docker/Dockerfile, run in a clean virtual environment with what the builder would get."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ")


def stage(name: str) -> list[str]:
    """The instructions of a stage, after those of the stage that it is built from."""
    found = re.search(rf"^FROM (\S+) AS {name}\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert found is not None
    base, body = found.groups()
    own = [line for line in body.splitlines() if line and not line.startswith("#")]
    return (stage(base) if not base.startswith("python:") else []) + own


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("target", "trains"), [("api", False), ("worker", True)])
def test_what_a_target_installs_is_enough_for_its_command(tmp_path: Path, target: str, trains: bool) -> None:
    source, home = tmp_path / "src", tmp_path / "sgg"
    source.mkdir()
    for instruction in stage(f"build-{target}"):
        verb, _, rest = instruction.partition(" ")
        if verb == "COPY":
            *names, _ = rest.split()
            for name in names:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
                copy(ROOT / name, source / name)
        elif verb == "RUN":
            command = rest.replace("/opt/sgg", str(home)).replace("python -m venv", f"{sys.executable} -m venv")
            subprocess.run(command, shell=True, cwd=source, check=True, capture_output=True)
    python = home / "bin" / "python"
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert ("\ntorch " in listed) is trains and "\nobstore " in listed
    for command in ("--version", "serve --help", "db --help", "worker --help"):
        done = subprocess.run([home / "bin" / "sgg", *command.split()], capture_output=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
    settings = {"SGG_DATA_DIR": str(tmp_path / "data"), "PATH": "/usr/bin:/bin"}
    subprocess.run([home / "bin" / "sgg", "db", "upgrade"], cwd=tmp_path, env=settings, check=True)
