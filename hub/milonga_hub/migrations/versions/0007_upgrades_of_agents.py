"""How often operators wanted devices to upgrade their agents, and how often they have."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
# Hubs of before leave both at their default.
adds = True
_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("device", schema=None) as device:
        for name in ("wanted_upgrades", "upgrades"):
            device.add_column(sa.Column(name, _WHOLE, nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("device", schema=None) as device:
        for name in ("upgrades", "wanted_upgrades"):
            device.drop_column(name)
