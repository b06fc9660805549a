"""What Alembic runs for each of its commands: on the connection and in the transaction of running.py."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

from milonga_hub.migrations.running import COMPARED

if context.is_offline_mode():
    context.configure(dialect_name=context.config.attributes["dialect"], literal_binds=True)
else:
    # SQLite undoes changes to tables as it undoes others; Alembic does not rely on it by itself.
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=SQLModel.metadata,
        transactional_ddl=True,
        **COMPARED,
        **context.config.attributes.get("options", {}),
    )
with context.begin_transaction():
    context.run_migrations()
