"""Files of checkpoints, and who may use them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("files") as files:
        files.add_column(sa.Column("checkpoint_id", sa.String(), nullable=True))
        files.create_foreign_key(
            op.f("fk_files_checkpoint_id_checkpoints"), "checkpoints", ["checkpoint_id"], ["id"], ondelete="CASCADE"
        )
        files.create_index(op.f("ix_files_checkpoint_id"), ["checkpoint_id"])
    op.create_table(
        "checkpoint_permissions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("checkpoint_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"],
            ["checkpoints.id"],
            name=op.f("fk_checkpoint_permissions_checkpoint_id_checkpoints"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_checkpoint_permissions_project_id_projects"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoint_permissions")),
        sa.UniqueConstraint(
            "checkpoint_id", "project_id", name=op.f("uq_checkpoint_permissions_checkpoint_id_project_id")
        ),
    )


def downgrade() -> None:
    op.drop_table("checkpoint_permissions")
    with op.batch_alter_table("files") as files:
        files.drop_index(op.f("ix_files_checkpoint_id"))
        files.drop_constraint(op.f("fk_files_checkpoint_id_checkpoints"), type_="foreignkey")
        files.drop_column("checkpoint_id")
