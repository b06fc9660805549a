"""What was decided of each picture of a device, and how often."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
# Hubs of before decide without noting it.
adds = True
_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("sample", schema=None) as table:
        table.add_column(sa.Column("revision", _WHOLE, nullable=False, server_default="0"))
        table.add_column(sa.Column("history", sa.Text, nullable=False, server_default="[]"))


def downgrade() -> None:
    with op.batch_alter_table("sample", schema=None) as table:
        table.drop_column("history")
        table.drop_column("revision")
