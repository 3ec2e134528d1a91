"""Where a job comes from: the ids that lead from its attempts back to the request that made it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("origin", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "origin")
