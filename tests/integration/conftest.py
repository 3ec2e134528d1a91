"""Fixtures of tests that speak HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.settings import ApiSettings
from api.testing import ApiServer, serving


@pytest.fixture
def api_settings(tmp_path: Path, sqlite_url: str) -> ApiSettings:
    return ApiSettings(data_dir=tmp_path / "data", database_url=sqlite_url)


@pytest.fixture
def api_server(api_settings: ApiSettings) -> Iterator[ApiServer]:
    with serving(api_settings) as server:
        yield server


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give each of schemathesis' tests an id of its own: since pytest 9.2 all that come from one function share one.

    xdist would run but the first of them.
    """
    if not item.nodeid.endswith(item.name):
        item._id = item.id.with_params(item.name.removeprefix(item.originalname).strip("[]"))
