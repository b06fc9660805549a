"""Keep what each device did in each quarter of an hour, one device's together; of before, windows tell."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
# Hubs of before neither read nor write these.
adds = True
_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "telemetry_quarter",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("window_id", _WHOLE, nullable=False),
        sa.Column("window_count", _WHOLE, nullable=False),
        sa.Column("figures", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("device", "started_at"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "telemetry_quarters_added",
        sa.Column("id", _WHOLE, nullable=False),
        sa.Column("window_id", _WHOLE, nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    op.drop_table("telemetry_quarters_added")
    op.drop_table("telemetry_quarter")
