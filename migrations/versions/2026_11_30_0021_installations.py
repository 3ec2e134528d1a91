"""The installation that a database belongs to, since when a job waits and with what it began, and what workers do.

A worker of an older version does not say whether it answers trials; that it does is what it was taken for.
"""

from __future__ import annotations

import secrets
import time

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    made = op.create_table(
        "installations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installations")),
    )
    op.bulk_insert(made, [{"id": f"inst-{secrets.token_hex(12)}", "created_at": time.time()}])
    op.add_column("jobs", sa.Column("queued_at", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("epochs", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("batch_size", sa.Integer(), nullable=True))
    op.add_column("workers", sa.Column("answers_trials", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.execute(
        "UPDATE jobs SET queued_at = (SELECT max(ended_at) FROM attempts WHERE attempts.job_id = jobs.id) "
        "WHERE status = 'queued'"
    )


def downgrade() -> None:
    op.drop_column("workers", "answers_trials")
    op.drop_column("jobs", "batch_size")
    op.drop_column("jobs", "epochs")
    op.drop_column("jobs", "queued_at")
    op.drop_table("installations")
