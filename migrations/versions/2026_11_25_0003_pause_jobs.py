"""Jobs can be paused: a status of jobs, a state of attempts, and the wish itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JOB = ("queued", "running", "succeeded", "failed", "cancelled")
ATTEMPT = ("running", "succeeded", "failed", "cancelled", "lost", "preempted")


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("pause_requested", sa.Boolean(), server_default=sa.false(), nullable=False))
        _widen(jobs, "status", "jobstatus", JOB, (*JOB[:2], "paused", *JOB[2:]))
    with op.batch_alter_table("attempts") as attempts:
        _widen(attempts, "state", "attemptstate", ATTEMPT, (*ATTEMPT, "paused"))


def downgrade() -> None:
    op.execute("UPDATE jobs SET status = 'queued' WHERE status = 'paused'")
    op.execute("UPDATE attempts SET state = 'preempted' WHERE state = 'paused'")
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_column("pause_requested")
        _widen(jobs, "status", "jobstatus", (*JOB[:2], "paused", *JOB[2:]), JOB)
    with op.batch_alter_table("attempts") as attempts:
        _widen(attempts, "state", "attemptstate", (*ATTEMPT, "paused"), ATTEMPT)


def _widen(table: op.BatchOperations, column: str, name: str, before: tuple[str, ...], after: tuple[str, ...]) -> None:
    """Change which values an enum's column may have."""
    old, new = (
        sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16) for values in (before, after)
    )
    table.alter_column(column, existing_type=old, type_=new, existing_nullable=False)
