"""Every variable that a process reads is in the documents, and every one in the documents is read."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from api.settings import ApiSettings
from sgg_store.logs import LogSettings
from sgg_store.settings import S3Settings, StoreSettings
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
KINDS: tuple[type[BaseSettings], ...] = (StoreSettings, S3Settings, ApiSettings, WorkerSettings, LogSettings)


def test_every_setting_is_in_the_documents() -> None:
    documents = "".join(path.read_text() for path in ROOT.glob("docs/*.md"))
    named = {f"{kind.model_config['env_prefix']}{field}".upper() for kind in KINDS for field in kind.model_fields}
    assert {name for name in named if not re.search(rf"\b{name}\b", documents)} == set()


def test_no_duration_is_without_end() -> None:
    durations = [(kind, name) for kind in KINDS for name in kind.model_fields if name.endswith("_seconds")]
    assert len(durations) > 20
    for kind, name in durations:
        for value in (math.inf, math.nan):
            with pytest.raises(ValidationError, match=name):
                kind(**{name: value})


def test_every_variable_in_the_documents_is_read_by_something() -> None:
    documents = {
        name for path in ROOT.glob("docs/*.md") for name in re.findall(r"`(SGG_[A-Z0-9_]+)`", path.read_text())
    }
    settings = {f"{kind.model_config['env_prefix']}{field}".upper() for kind in KINDS for field in kind.model_fields}
    sources = [
        path
        for package in ("api", "cli", "sgg_core", "sgg_store", "worker")
        for path in ROOT.glob(f"{package}/**/*.py")
    ]
    others = "".join(path.read_text() for path in [*sources, ROOT / "docker-compose.yml", *ROOT.glob("tests/**/*.py")])
    assert {name for name in documents - settings if name not in others} == set()
