"""Keep webhooks, their messages, and when builds and rollouts came into their state."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "webhook",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("give_up_after_seconds", sa.Float(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("told_until", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "webhook_delivery",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("state", sa.String(64), nullable=False),
        sa.Column("attempts", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(), nullable=True),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.Column("webhook", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("webhook_delivery", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_webhook_delivery_state"), ["state"], unique=False)
        batch_op.create_index(batch_op.f("ix_webhook_delivery_webhook"), ["webhook"], unique=False)

    with op.batch_alter_table("build", schema=None) as batch_op:
        batch_op.add_column(sa.Column("state_at", sa.DateTime(), nullable=True))
        batch_op.create_index(batch_op.f("ix_build_state_at"), ["state_at"], unique=False)

    with op.batch_alter_table("device", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_device_enrolled_at"), ["enrolled_at"], unique=False)

    with op.batch_alter_table("rollout", schema=None) as batch_op:
        batch_op.add_column(sa.Column("state_at", sa.DateTime(), nullable=True))
        batch_op.create_index(batch_op.f("ix_rollout_state_at"), ["state_at"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("rollout", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_rollout_state_at"))
        batch_op.drop_column("state_at")

    with op.batch_alter_table("device", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_device_enrolled_at"))

    with op.batch_alter_table("build", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_build_state_at"))
        batch_op.drop_column("state_at")

    with op.batch_alter_table("webhook_delivery", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_webhook_delivery_webhook"))
        batch_op.drop_index(batch_op.f("ix_webhook_delivery_state"))

    op.drop_table("webhook_delivery")
    op.drop_table("webhook")
