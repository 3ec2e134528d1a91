"""The database's tables change while a worker of the version before trains, and clocks disagree."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from sgg_store.failpoints import Failpoint
from sgg_store.job_state import AttemptState, JobStatus
from sgg_store.retries import Cause
from sgg_store.schema import SchemaState
from tests.faults.running import ROOT
from tests.faults.site import FEW_STEPS, LEASE_SECONDS, SGG, Site
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


def downgrade():
    op.drop_index("ix_jobs_colour", "jobs")
    op.drop_column("jobs", "colour")
"""
CLOCK = """
import os, pathlib, time
pathlib.Path(__file__).with_name(f"seen-by-{{os.getpid()}}").touch()
_true_time, _true_time_ns = time.time, time.time_ns
time.time = lambda: _true_time() + {seconds}
time.time_ns = lambda: _true_time_ns() + {seconds} * 10**9
"""


@contextmanager
def next_version(site: Site, directory: Path) -> Iterator[None]:
    """Apply a revision that this version of the code does not have, taking a third of a lease for it.

    After the block the tables are as before.
    """
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    head = ScriptDirectory.from_config(config).get_current_head()
    revision = NEXT_REVISION.format(head=head, seconds=LEASE_SECONDS / 3)
    (directory / "next_version.py").write_text(revision)
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", f"{ROOT / 'migrations' / 'versions'}:{directory}")

    def migrate(to: Callable[[Config, str], None], revision: str) -> None:
        with site.bench.database.connect_for_migration() as connection:
            config.attributes["connection"] = connection
            to(config, revision)

    migrate(command.upgrade, "head")
    try:
        yield
    finally:
        migrate(command.downgrade, "-1")


def test_an_old_worker_finishes_its_job_under_new_tables_and_no_other_begins(
    site: Site, tmp_path: Path, reference: str
) -> None:
    job_id = site.begin(5)
    with next_version(site, tmp_path):
        assert site.bench.job(job_id).status is JobStatus.RUNNING
        assert site.bench.database.schema_status().state is SchemaState.UNKNOWN
        # on a machine so slow that heartbeats wait for longer than the worker may, further attempts of it are right
        assert {one.cause for one in site.assert_whole(job_id)[:-1]} <= {Cause.DATABASE}
        assert site.weights(job_id) == reference
        environment = site.environment | {"SGG_BROKER_URL": "redis://127.0.0.1:1/0"}
        late = subprocess.run(
            [*SGG, "worker"], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
        assert late.returncode != 0 and "newer version of sgg" in late.stderr


@contextmanager
def clocks_off_by(site: Site, directory: Path, *seconds: int) -> Iterator[None]:
    """For the length of the block, the deployment's workers are others, whose clocks are off."""
    for worker in site.workers:
        worker.terminate()
    environments = []
    for number, off in enumerate(seconds):
        (directory / str(number)).mkdir()
        (directory / str(number) / "sitecustomize.py").write_text(CLOCK.format(seconds=off))
        environments.append({"PYTHONPATH": f"{directory / str(number)}:{ROOT}", "SGG_STALL_SECONDS": "600"})
    site.workers = site.start_workers(*environments)
    for number, worker in enumerate(site.workers):
        assert (directory / str(number) / f"seen-by-{worker.process.pid}").exists()
    yield
    site.settle()
    for worker in site.workers:
        worker.kill()


def test_workers_whose_clocks_are_off_by_an_hour_neither_steal_nor_lose_jobs(
    second_team: Site, tmp_path: Path, reference: str
) -> None:
    site = second_team
    with clocks_off_by(site, tmp_path, 3600, -3600):
        site.arm(Failpoint.RESULT_STORED, "hold")
        slow, other = site.submit(FEW_STEPS), site.submit(FEW_STEPS)
        site.wait_until_fired(Failpoint.RESULT_STORED)
        time.sleep(1.5 * LEASE_SECONDS)  # both reapers see a lease that is renewed by a clock they do not share
        site.release(Failpoint.RESULT_STORED)
        assert [len(site.assert_whole(job_id, FEW_STEPS)) for job_id in (slow, other)] == [1, 1]
        job_id = site.begin(25)
        killed = site.worker_of(job_id)
        killed.kill()
        killed_attempt = site.bench.job(job_id).current_attempt
        eventually(lambda: site.bench.job(job_id).current_attempt > killed_attempt)
        assert site.assert_whole(job_id)[killed_attempt - 1].state is AttemptState.LOST
        assert site.weights(job_id) == reference
