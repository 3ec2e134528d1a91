"""Deliveries of webhooks outlive the job that they tell of."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

FOREIGN_KEY = "fk_webhook_deliveries_job_id_jobs"


def upgrade() -> None:
    with op.batch_alter_table("webhook_deliveries") as deliveries:
        deliveries.drop_constraint(op.f(FOREIGN_KEY), type_="foreignkey")


def downgrade() -> None:
    op.execute("DELETE FROM webhook_deliveries WHERE job_id NOT IN (SELECT id FROM jobs)")
    with op.batch_alter_table("webhook_deliveries") as deliveries:
        deliveries.create_foreign_key(op.f(FOREIGN_KEY), "jobs", ["job_id"], ["id"], ondelete="CASCADE")
