"""Indexes for reading and polling many jobs, and the table of chores that one process at a time does."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_jobs_status_priority_created_at_id", "jobs", ["status", "priority", "created_at", "id"]),
    ("ix_jobs_api_key_id_request_hash", "jobs", ["api_key_id", "request_hash"]),
    ("ix_metrics_job_id_type_step", "metrics", ["job_id", "type", "step"]),
)


def upgrade() -> None:
    for name, table, columns in INDEXES:
        op.create_index(op.f(name), table, columns)
    op.create_table(
        "chores",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("begun_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_chores")),
    )


def downgrade() -> None:
    op.drop_table("chores")
    for name, table, _ in reversed(INDEXES):
        op.drop_index(op.f(name), table_name=table)
