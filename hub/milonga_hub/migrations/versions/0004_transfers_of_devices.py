"""Keep what came to devices of builds, from where, and what they sent to neighbours; of before nothing is known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    size = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "transferred",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("whole_bytes", size, nullable=False),
        sa.Column("moved_bytes", size, nullable=False),
        sa.Column("neighbour_bytes", size, nullable=False),
        sa.Column("served_bytes", size, nullable=False),
        sa.PrimaryKeyConstraint("device", "project"),
    )
    op.create_index("ix_transferred_project", "transferred", ["project"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_transferred_project", table_name="transferred")
    op.drop_table("transferred")
