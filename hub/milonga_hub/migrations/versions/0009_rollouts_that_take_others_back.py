"""Which rollout another one takes back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
# Hubs of before leave it empty.
adds = True


def upgrade() -> None:
    with op.batch_alter_table("rollout", schema=None) as rollout:
        rollout.add_column(sa.Column("rolls_back", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("rollout", schema=None) as rollout:
        rollout.drop_column("rolls_back")
