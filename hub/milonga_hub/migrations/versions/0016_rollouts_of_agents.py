"""Rollouts that bring an agent in the place of a model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
# Hubs of before leave it empty. One that leads would take such a rollout for one of a model without builds, and leave it as it is.
adds = True


def upgrade() -> None:
    with op.batch_alter_table("rollout", schema=None) as rollout:
        rollout.add_column(sa.Column("agent_version", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("rollout", schema=None) as rollout:
        rollout.drop_column("agent_version")
