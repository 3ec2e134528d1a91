"""The database's tables change while a worker of the version before trains, and clocks disagree."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from sgg_core.catalogue import BaseModelEntry
from sgg_store.failpoints import Failpoint
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.retries import Cause
from sgg_store.schema import SchemaState
from tests.faults.conftest import Servers
from tests.faults.running import ROOT
from tests.faults.site import LEASE_SECONDS, SGG, Site
from worker.testing import eventually

NEXT_REVISION = """
import time
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "next_version", "{head}", None, None


def upgrade():
    op.add_column("jobs", sa.Column("colour", sa.String(), nullable=True))
    op.create_index("ix_jobs_colour", "jobs", ["colour"])
    time.sleep({seconds})  # a large table, and every other writer waits
"""
CLOCK = """
import os, pathlib, time
pathlib.Path(__file__).with_name(f"seen-by-{{os.getpid()}}").touch()
_true_time, _true_time_ns = time.time, time.time_ns
time.time = lambda: _true_time() + {seconds}
time.time_ns = lambda: _true_time_ns() + {seconds} * 10**9
"""


def migrate_to_a_next_version(site: Site, directory: Path) -> None:
    """Apply a revision that this version of the code does not have, taking half a lease for it."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    head = ScriptDirectory.from_config(config).get_current_head()
    revision = NEXT_REVISION.format(head=head, seconds=LEASE_SECONDS / 3)
    (directory / "next_version.py").write_text(revision)
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", f"{ROOT / 'migrations' / 'versions'}:{directory}")
    with site.bench.database.connect_for_migration() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@pytest.fixture
def upgradable(backend: str, request: pytest.FixtureRequest, tiny: BaseModelEntry, tmp_path: Path) -> Iterator[Site]:
    """A deployment whose tables this test may change."""
    environment = request.getfixturevalue("servers").environment() if backend == "servers" else None
    with closing(Site(tmp_path, tiny, environment, workers=1)) as site, site.in_use():
        yield site


def test_an_old_worker_finishes_its_job_under_new_tables_and_no_other_begins(
    upgradable: Site, tmp_path: Path, reference: str
) -> None:
    job_id = upgradable.begin(5)
    (tmp_path / "revisions").mkdir()
    migrate_to_a_next_version(upgradable, tmp_path / "revisions")
    assert upgradable.bench.job(job_id).status is JobStatus.RUNNING
    assert upgradable.bench.database.schema_status().state is SchemaState.UNKNOWN
    # on a machine so slow that heartbeats wait for longer than the worker may, further attempts of it are right
    assert {one.cause for one in upgradable.assert_whole(job_id)[:-1]} <= {Cause.DATABASE}
    assert upgradable.weights(job_id) == reference
    environment = upgradable.environment | {"SGG_BROKER_URL": "redis://127.0.0.1:1/0"}
    late = subprocess.run(
        [*SGG, "worker"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert late.returncode != 0 and "newer version of sgg" in late.stderr


@contextmanager
def worker_with_clock(site: Site, directory: Path, seconds: int) -> Iterator[None]:
    """A worker whose clock is off, in use for the length of the block."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(CLOCK.format(seconds=seconds))
    worker = site.start_worker(PYTHONPATH=f"{directory}:{ROOT}")
    assert (directory / f"seen-by-{worker.process.pid}").exists()
    site.workers.append(worker)
    yield


def test_workers_whose_clocks_are_off_by_an_hour_neither_steal_nor_lose_jobs(
    servers: Servers, tiny: BaseModelEntry, tmp_path: Path, reference: str
) -> None:
    site = Site(tmp_path / "site", tiny, servers.environment(), workers=0)
    with (
        closing(site),
        site.in_use(),
        worker_with_clock(site, tmp_path / "ahead", 3600),
        worker_with_clock(site, tmp_path / "behind", -3600),
    ):
        site.arm(Failpoint.RESULT_STORED, "hold")
        slow, other = site.submit(), site.submit()
        site.wait_until_fired(Failpoint.RESULT_STORED)
        time.sleep(1.5 * LEASE_SECONDS)  # both reapers see a lease that is renewed by a clock they do not share
        site.release(Failpoint.RESULT_STORED)
        assert [len(site.assert_whole(job_id)) for job_id in (slow, other)] == [1, 1]
        job_id = site.begin(25)
        killed = site.worker_of(job_id)
        killed.kill()
        killed_attempt = site.bench.job(job_id).current_attempt
        eventually(lambda: site.bench.job(job_id).current_attempt > killed_attempt)
        assert site.assert_whole(job_id)[killed_attempt - 1].state is AttemptState.LOST
        assert site.weights(job_id) == reference
