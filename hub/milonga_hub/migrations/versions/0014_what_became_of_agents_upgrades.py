"""What became of the last upgrade of each device's agent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
# Hubs of before leave it empty.
adds = True


def upgrade() -> None:
    with op.batch_alter_table("device", schema=None) as device:
        device.add_column(sa.Column("agent_upgrade", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("device", schema=None) as device:
        device.drop_column("agent_upgrade")
