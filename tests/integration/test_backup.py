"""What was backed up while jobs ran is restored elsewhere, and the jobs go on there."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from typer.testing import CliRunner

from cli.main import app
from sgg_core.catalogue import BaseModelEntry
from sgg_core.tiny import save_tiny_base
from sgg_store.checkpoints import Checkpoints
from sgg_store.job_state import JobStatus
from worker.embedded import start_embedded
from worker.testing import TWO_LABELS, Workbench, eventually

STEPS = 3000  # more than can be done before the backup is made
LEASE_SECONDS = 6  # after which the copy's worker takes over a job that ran when it was copied


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseModelEntry:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return save_tiny_base(tmp_path / "tiny")


def start_jobs(bench: Workbench) -> tuple[str, str]:
    """Ids of a job that runs and has a checkpoint, and of one that waits for it."""
    running = bench.submit_steps(STEPS, 5)
    queued = bench.submit(TWO_LABELS, optimization={"max_steps": 3})

    def has_a_checkpoint() -> bool:
        with bench.database.read() as session:
            return Checkpoints(session).newest(running) is not None

    eventually(has_a_checkpoint)
    return running, queued


def expect_them_to_go_on(bench: Workbench, running: str, queued: str) -> None:
    assert bench.job(running).status is JobStatus.RUNNING  # as it was when the backup was made
    assert bench.job(queued).status is JobStatus.QUEUED
    worker = start_embedded(bench.settings, bench.database, bench.objects)
    try:
        eventually(lambda: len(bench.attempts(running)) == 2)
        second = bench.attempts(running)[1]
        assert second.start_step >= 5
        bench.wait_for_step(running, second.start_step + 5)
        bench.cancel(running)
        assert bench.wait_for_end(running).status is JobStatus.CANCELLED
        assert bench.wait_for_end(queued).status is JobStatus.SUCCEEDED
    finally:
        worker.stop()
        bench.close()


def test_a_copy_of_a_running_servers_directory_is_a_data_directory(tmp_path: Path, tiny: BaseModelEntry) -> None:
    bench = Workbench(tmp_path / "data", tiny, lease_seconds=LEASE_SECONDS)
    (tmp_path / "data" / "key-secret").write_text("secret")
    worker = start_embedded(bench.settings, bench.database, bench.objects)
    running, queued = start_jobs(bench)
    arguments = ["db", "backup", str(tmp_path / "backup"), "--data-dir", str(tmp_path / "data"), "--json"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SGG_DATA_DIR", str(tmp_path / "data"))
        made = CliRunner().invoke(app, arguments)
        assert made.exit_code == 0, made.stderr
        again = CliRunner().invoke(app, arguments)
        assert again.exit_code == 1 and "exists already" in again.stderr
    assert json.loads(made.stdout)["objects"] >= 3
    worker.stop()
    bench.close()
    shutil.rmtree(tmp_path / "data")  # nothing of the copy may depend on it
    shutil.move(tmp_path / "backup", tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "elsewhere" / "key-secret").read_text() == "secret"
    expect_them_to_go_on(Workbench(tmp_path / "elsewhere", tiny, lease_seconds=LEASE_SECONDS), running, queued)


def test_a_backup_that_cannot_be_made_leaves_nothing(tmp_path: Path, tiny: BaseModelEntry) -> None:
    Workbench(tmp_path / "data", tiny).close()
    with closing(sqlite3.connect(tmp_path / "data" / "sgg.sqlite3")) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET rootpage = 999 WHERE name = 'ix_files_project_id_created_at_id'")
        connection.commit()
    arguments = ["db", "backup", str(tmp_path / "backup"), "--data-dir", str(tmp_path / "data")]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SGG_DATA_DIR", str(tmp_path / "data"))
        assert CliRunner().invoke(app, arguments).exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tiny"]


def test_a_full_disk_is_one_line_with_a_remedy_and_leaves_nothing(tmp_path: Path, tiny: BaseModelEntry) -> None:
    Workbench(tmp_path / "data", tiny).close()
    most = (tmp_path / "data" / "sgg.sqlite3").stat().st_size // 2
    command = [sys.executable, "-m", "cli.main", "db", "backup", str(tmp_path / "backup")]
    done = subprocess.run(
        command,
        env=os.environ | {"SGG_DATA_DIR": str(tmp_path / "data")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),  # files fail as on a full disk
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: Cannot copy the database: ") and len(done.stderr.splitlines()) == 1
    assert "Choose a directory that has space" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tiny"]


def test_what_is_no_database_is_told_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGG_DATA_DIR", str(tmp_path))
    (tmp_path / "sgg.sqlite3").write_bytes(b"something else" * 100)
    refused = CliRunner().invoke(app, ["db", "backup", str(tmp_path / "backup")])
    assert refused.exit_code == 1 and "Check the disks" in refused.stderr.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["sgg.sqlite3"]


@pytest.fixture
def restored_database(empty_postgres_url: str) -> Iterator[str]:
    """Name of a new, empty database on the server of the test's Postgres."""
    admin = create_engine(make_url(empty_postgres_url), isolation_level="AUTOCOMMIT")
    name = f"sgg_restored_{uuid.uuid4().hex}"
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield name
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.mark.postgres
@pytest.mark.s3
def test_a_dump_and_a_copied_bucket_are_a_service(
    tmp_path: Path, tiny: BaseModelEntry, empty_postgres_url: str, restored_database: str, s3_url: str
) -> None:
    if shutil.which("pg_dump") is None:
        message = "pg_dump is not installed."
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    servers = {"database_url": empty_postgres_url, "object_store_url": s3_url}
    bench = Workbench(tmp_path / "data", tiny, lease_seconds=LEASE_SECONDS, **servers)
    worker = start_embedded(bench.settings, bench.database, bench.objects)
    running, queued = start_jobs(bench)
    url = make_url(empty_postgres_url)
    address = url.set(drivername="postgresql", query={}).render_as_string(hide_password=False)
    schema = str(url.query["options"]).partition("search_path=")[2].split()[0]
    dump = tmp_path / "sgg.dump"
    subprocess.run(["pg_dump", "--format=custom", f"--schema={schema}", f"--file={dump}", address], check=True)
    copied = {found.key: b"".join(bench.objects.open(found.key)) for found in bench.objects.list("")}
    worker.stop()
    bench.close()

    restored = url.set(database=restored_database)
    target = make_url(address).set(database=restored_database).render_as_string(hide_password=False)
    subprocess.run(["pg_restore", "--no-owner", f"--dbname={target}", str(dump)], check=True)
    new_url = restored.render_as_string(hide_password=False)
    servers = {"database_url": new_url, "object_store_url": f"{s3_url}-restored"}
    new = Workbench(tmp_path / "new", tiny, lease_seconds=LEASE_SECONDS, **servers)
    for key, content in copied.items():
        new.objects.put(key, content)
    expect_them_to_go_on(new, running, queued)
