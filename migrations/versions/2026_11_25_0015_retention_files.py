"""Files on which jobs measure what they forget."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("retention_file_id", sa.String()))


def downgrade() -> None:
    op.drop_column("jobs", "retention_file_id")
