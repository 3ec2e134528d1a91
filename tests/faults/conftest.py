"""Deployments to do harm to: one embedded and one on servers of its own, which the tests of a session share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sgg_core.catalogue import BaseModelEntry
from sgg_core.tiny import save_tiny_base
from tests.conftest import require_seaweedfs
from tests.faults.site import Site
from tests.seaweedfs import BUCKET, SeaweedServer
from tests.servers import PostgresServer, RedisServer, postgres_program, redis_program
from worker.testing import Workbench


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseModelEntry:
    return save_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def make_bench(
    tmp_path: Path, tiny: BaseModelEntry, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Workbench]]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made: list[Workbench] = []

    def make(**settings: Any) -> Workbench:
        made.append(Workbench(tmp_path / "data", tiny, **settings))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@dataclass
class Servers:
    """Postgres, Redis and SeaweedFS of this session's own; tests may kill and start them."""

    s3: SeaweedServer
    postgres: PostgresServer = field(default_factory=PostgresServer)
    redis: RedisServer = field(default_factory=RedisServer)
    _deployments: int = 0

    def start(self) -> None:
        """Start what a test has left dead."""
        for server in (self.postgres, self.redis):
            if not server.running:
                server.start()
        if self.s3.process is None:
            self.s3.start()

    def close(self) -> None:
        """End all of them."""
        self.postgres.close()
        self.redis.close()
        self.s3.kill()

    def environment(self) -> dict[str, str]:
        """What one more deployment is told: a database, a broker and objects that no other uses."""
        self._deployments += 1
        return self.s3.environment | {
            "SGG_DATABASE_URL": self.postgres.create_database(f"site{self._deployments}"),
            "SGG_BROKER_URL": f"{self.redis.url}/{self._deployments}",
            "SGG_OBJECT_STORE_URL": f"s3://{BUCKET}/site{self._deployments}",
        }


@pytest.fixture(scope="session")
def all_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    require_seaweedfs()
    if postgres_program("postgres") is None or redis_program() is None:
        message = "Faults of servers need programs of their own: install postgresql and redis-server."
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    servers = Servers(SeaweedServer(tmp_path_factory.mktemp("seaweedfs")))
    with pytest.MonkeyPatch.context() as environment:  # the tests look at the objects, too
        for name, value in servers.s3.environment.items():
            environment.setenv(name, value)
        try:
            servers.start()
            yield servers
        finally:
            servers.close()


@pytest.fixture
def servers(all_servers: Servers) -> Iterator[Servers]:
    """The servers, all of them running before and after the test."""
    all_servers.start()
    yield all_servers
    all_servers.start()


@pytest.fixture(scope="session")
def embedded_site(tmp_path_factory: pytest.TempPathFactory, tiny: BaseModelEntry) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("embedded-site"), tiny)
    yield site
    site.close()


@pytest.fixture(scope="session")
def servers_site(
    tmp_path_factory: pytest.TempPathFactory, tiny: BaseModelEntry, all_servers: Servers
) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("servers-site"), tiny, all_servers.environment())
    yield site
    site.close()


@pytest.fixture(params=["embedded", "servers"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(backend: str, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A running deployment of each kind. After the test every job ends, and what must hold is checked."""
    if backend == "servers":
        request.getfixturevalue("servers")
    with request.getfixturevalue(f"{backend}_site").in_use() as running:
        yield running


@pytest.fixture
def team(servers: Servers, servers_site: Site) -> Iterator[Site]:
    """The running deployment on servers, for faults that only it can meet. Checked as `site` is."""
    with servers_site.in_use() as running:
        yield running


@pytest.fixture(scope="session")
def reference(embedded_site: Site) -> str:
    """The sha256 of the weights of a job that nothing happened to."""
    embedded_site.start()
    job_id = embedded_site.submit()
    assert len(embedded_site.assert_whole(job_id)) == 1
    return embedded_site.weights(job_id)
