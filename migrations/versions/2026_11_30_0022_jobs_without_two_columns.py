"""Jobs lose two columns that nobody reads: what the caller wrote is in the spec, failures are in the attempts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column("jobs", "method_request")
    op.drop_column("jobs", "infra_failures")


def downgrade() -> None:
    op.add_column("jobs", sa.Column("infra_failures", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("method_request", sa.JSON(), nullable=True))
