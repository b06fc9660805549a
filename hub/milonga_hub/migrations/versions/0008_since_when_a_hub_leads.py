"""Keep since when the hub that leads does so; of one that leads already nothing is known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
# Hubs of before read and write all else as they did.
adds = True


def upgrade() -> None:
    with op.batch_alter_table("lease", schema=None) as lease:
        lease.add_column(sa.Column("taken_at", sa.DateTime(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("lease", schema=None) as lease:
        lease.drop_column("taken_at")
