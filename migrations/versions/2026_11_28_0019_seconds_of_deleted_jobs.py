"""What deleted jobs took of their project's day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("projects", sa.Column("deleted_day", sa.Integer(), server_default="0", nullable=False))
    op.add_column("projects", sa.Column("deleted_seconds", sa.Double(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("projects", "deleted_seconds")
    op.drop_column("projects", "deleted_day")
