"""Several hubs on one database: who they are, which of them leads, and which of them has a device's stream."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
_WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "hub_member",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("id", "name", "version", "revision")),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("http", "grpc", "device")),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("seen_at", sa.DateTime(), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("broker", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("number", _WHOLE, nullable=False),
        sa.Column("expires_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "hub_message",
        sa.Column("id", _WHOLE, nullable=False),
        *(
            sa.Column(name, sa.String(), nullable=False)
            for name in ("hub", "sender", "device", "kind", "key", "digests")
        ),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("sent_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("device", schema=None) as device:
        device.add_column(sa.Column("hub", sa.String(), nullable=False, server_default=""))
        device.add_column(sa.Column("knows_tuning", sa.Boolean(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("device", schema=None) as device:
        device.drop_column("knows_tuning")
        device.drop_column("hub")
    for table in ("hub_message", "lease", "hub_member"):
        op.drop_table(table)
