"""Adapters of trials: bundles or the files of checkpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DELETE FROM trials")  # they live for seconds, and nobody waits across an upgrade
    with op.batch_alter_table("trials") as table:
        table.drop_column("adapter_key")
        table.drop_column("adapter_sha256")
        table.add_column(sa.Column("adapter", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.execute("DELETE FROM trials")
    with op.batch_alter_table("trials") as table:
        table.drop_column("adapter")
        table.add_column(sa.Column("adapter_key", sa.String(), nullable=True))
        table.add_column(sa.Column("adapter_sha256", sa.String(), nullable=True))
