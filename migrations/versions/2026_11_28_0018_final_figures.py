"""The figures of a succeeded job's adapter."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("final_figures", sa.JSON()))


def downgrade() -> None:
    op.drop_column("jobs", "final_figures")
