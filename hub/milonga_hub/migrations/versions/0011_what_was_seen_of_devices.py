"""Keep what was seen of each device for drift, so that a hub that starts again need not look at hours of windows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
# Hubs of before neither read nor write it.
adds = True
_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "drift_watch",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("bundle", sa.String(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("window_id", _WHOLE, nullable=False),
        sa.Column("boot_id", sa.String(), nullable=False),
        sa.Column("sequence", _WHOLE, nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("project", "device"),
    )


def downgrade() -> None:
    op.drop_table("drift_watch")
