"""Indexes for a job's place among its project's, and for how long jobs on a base model took."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_jobs_project_id_status_priority_created_at_id", ["project_id", "status", "priority", "created_at", "id"]),
    ("ix_jobs_base_model_status_finished_at", ["base_model", "status", "finished_at"]),
)


def upgrade() -> None:
    for name, columns in INDEXES:
        op.create_index(op.f(name), "jobs", columns)


def downgrade() -> None:
    for name, _ in reversed(INDEXES):
        op.drop_index(op.f(name), table_name="jobs")
