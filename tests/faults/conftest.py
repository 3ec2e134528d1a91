"""Deployments to do harm to: one embedded and one on servers of its own, which the tests of a session share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from sgg_core.catalogue import BaseModelEntry
from tests.conftest import require_seaweedfs
from tests.faults.invariants import check_invariants
from tests.faults.site import Site
from tests.seaweedfs import BUCKET, SeaweedServer
from tests.servers import PostgresServer, RedisServer, postgres_program, redis_program
from tests.tcp_proxy import TcpProxy
from worker.testing import Workbench

KINDS = ("embedded", "servers")
SHARED = (*(f"second_{kind}" for kind in KINDS), *KINDS)  # in the order in which a test's id is searched for them
IMPATIENT = {"SGG_STALL_SECONDS": "6"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
    # of this deployment there are few tests, which would begin last and be waited for while it starts
    items.sort(key=lambda item: deployment_of(item.nodeid) != "second_embedded")


class SchedulingByDeployment(LoadScopeScheduling):
    """Tests that act upon one deployment run in one process, which starts it once; others file by file."""

    def _split_scope(self, nodeid: str) -> str:
        return deployment_of(nodeid) or nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SchedulingByDeployment:
    return SchedulingByDeployment(config, log)


def deployment_of(test: str) -> str | None:
    """The deployment that a test of this name or id acts upon, if it is one that tests share."""
    return next((name for name in SHARED if name in test.partition("[")[2]), None)


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
        """Start what a test has left dead, all of it at the same time."""
        dead = [server for server in (self.postgres, self.redis, self.s3) if not server.running]
        with ThreadPoolExecutor(3) as pool:
            for begun in [pool.submit(server.start) for server in dead]:
                begun.result()

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
    with shared(Site(tmp_path_factory.mktemp("embedded-site"), tiny)) as site:
        yield site


@pytest.fixture(scope="session")
def servers_site(
    tmp_path_factory: pytest.TempPathFactory, tiny: BaseModelEntry, all_servers: Servers
) -> Iterator[Site]:
    with shared(Site(tmp_path_factory.mktemp("servers-site"), tiny, all_servers.environment())) as site:
        yield site


@pytest.fixture(scope="session")
def second_embedded_site(tmp_path_factory: pytest.TempPathFactory, tiny: BaseModelEntry) -> Iterator[Site]:
    with shared(Site(tmp_path_factory.mktemp("embedded"), tiny, environment=IMPATIENT)) as site:
        yield site


@pytest.fixture(scope="session")
def proxy(all_servers: Servers) -> Iterator[TcpProxy]:
    """The way from the second deployment on servers to its broker."""
    with TcpProxy(all_servers.redis.port) as to_redis:
        yield to_redis


@pytest.fixture(scope="session")
def second_servers_site(
    tmp_path_factory: pytest.TempPathFactory, tiny: BaseModelEntry, all_servers: Servers, proxy: TcpProxy
) -> Iterator[Site]:
    environment = all_servers.environment()
    environment["SGG_BROKER_URL"] = environment["SGG_BROKER_URL"].replace(all_servers.redis.address, proxy.address)
    directory = tmp_path_factory.mktemp("servers")
    with shared(Site(directory, tiny, environment, workers=1, environment=IMPATIENT)) as site:
        yield site


@contextmanager
def shared(site: Site) -> Iterator[Site]:
    """A deployment for the tests of a session. At its end all that it has stored is looked at once more."""
    with closing(site):
        yield site
        check_invariants(site.bench.database, site.bench.objects, {})


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(backend: str, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A running deployment of each kind. After the test every job ends, and what must hold is checked."""
    if backend == "servers":
        request.getfixturevalue("servers")
    with request.getfixturevalue(f"{backend}_site").in_use() as running:
        yield running


@pytest.fixture(params=KINDS, ids=lambda kind: f"second_{kind}")
def second_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """One more deployment of each kind, with one worker that has no patience with a trainer. Checked as `site` is."""
    if request.param == "servers":
        request.getfixturevalue("servers")
    with request.getfixturevalue(f"second_{request.param}_site").in_use() as running:
        wait_for_trainer(running)
        yield running


@pytest.fixture(params=["servers"])
def team(servers: Servers, servers_site: Site) -> Iterator[Site]:
    """The running deployment on servers, for faults that only it can meet. Checked as `site` is."""
    with servers_site.in_use() as running:
        yield running


@pytest.fixture(params=["second_servers"])
def second_team(servers: Servers, second_servers_site: Site) -> Iterator[Site]:
    """The second deployment on servers, for the same."""
    with second_servers_site.in_use() as running:
        wait_for_trainer(running)
        yield running


def wait_for_trainer(impatient: Site) -> None:
    """Wait until the worker has a trainer: importing everything would take longer than its patience lasts."""
    impatient.workers[0].trainer()


@pytest.fixture(params=["embedded"])
def alone(embedded_site: Site) -> Iterator[Site]:
    """The running embedded deployment, for faults that only it can meet. Checked as `site` is."""
    with embedded_site.in_use() as running:
        yield running


@pytest.fixture
def reference(request: pytest.FixtureRequest) -> str:
    """The sha256 of the weights of a job that nothing happened to."""
    undisturbed: Site = request.getfixturevalue(f"{deployment_of(request.node.name)}_site")
    return undisturbed.reference
