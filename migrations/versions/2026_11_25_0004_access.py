"""Quotas of projects, last use of keys, and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

QUOTAS = {
    "max_running_jobs": sa.Integer(),
    "max_queued_jobs": sa.Integer(),
    "max_stored_bytes": sa.BigInteger(),
    "max_trainer_seconds_per_day": sa.Integer(),
}


def upgrade() -> None:
    for name, kind in QUOTAS.items():
        op.add_column("projects", sa.Column(name, kind, nullable=True))
    op.add_column("projects", sa.Column("last_claimed_at", sa.Double(), nullable=True))
    op.add_column("api_keys", sa.Column("last_used_at", sa.Double(), nullable=True))
    op.create_index(op.f("ix_attempts_ended_at"), "attempts", ["ended_at"], unique=False)
    op.create_table(
        "audit_log",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=True),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("target", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("client_address", sa.String(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_log")),
    )
    op.create_index(op.f("ix_audit_log_at"), "audit_log", ["at"], unique=False)
    for column in ("project_id", "key_id", "target", "outcome"):
        op.create_index(op.f(f"ix_audit_log_{column}_seq"), "audit_log", [column, "seq"], unique=False)


def downgrade() -> None:
    op.drop_table("audit_log")
    op.drop_index(op.f("ix_attempts_ended_at"), "attempts")
    op.drop_column("api_keys", "last_used_at")
    for name in ("last_claimed_at", *QUOTAS):
        op.drop_column("projects", name)
