"""How kernels of builds were tuned, and how that was asked for; builds that are there were not tuned as far as is known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("build", schema=None) as build:
        build.add_column(sa.Column("tuning", sa.Text(), nullable=True))
        build.add_column(sa.Column("wanted_tuning", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("build", schema=None) as build:
        build.drop_column("wanted_tuning")
        build.drop_column("tuning")
