"""How much of what the network decides a build on a device decides too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
# Hubs of before leave it empty.
adds = True


def upgrade() -> None:
    with op.batch_alter_table("device_build", schema=None) as table:
        table.add_column(sa.Column("agreement", sa.Float, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("device_build", schema=None) as table:
        table.drop_column("agreement")
