"""How far the clock of each device is ahead."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
# Hubs of before leave it empty.
adds = True


def upgrade() -> None:
    with op.batch_alter_table("device", schema=None) as device:
        device.add_column(sa.Column("clock_ahead_seconds", sa.Float(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("device", schema=None) as device:
        device.drop_column("clock_ahead_seconds")
