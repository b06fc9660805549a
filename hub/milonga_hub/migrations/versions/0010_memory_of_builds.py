"""How much memory a build took where it was measured, and how much its device type allows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
# Hubs of before leave both empty.
adds = True
_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_COLUMNS = {"build": "measured_memory_bytes", "build_order": "memory_bytes"}


def upgrade() -> None:
    for name, column in _COLUMNS.items():
        with op.batch_alter_table(name, schema=None) as table:
            table.add_column(sa.Column(column, _WHOLE, nullable=True))


def downgrade() -> None:
    for name, column in _COLUMNS.items():
        with op.batch_alter_table(name, schema=None) as table:
            table.drop_column(column)
