"""Writes a revision that brings the tables to what the models say now: make revision MESSAGE="keep the colour of devices"."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import milonga_hub.app  # noqa: F401  (All models.)
import sqlalchemy as sa
from alembic import command
from milonga_hub.db import Database
from milonga_hub.migrations import running
from sqlalchemy.dialects import sqlite
from sqlmodel.sql.sqltypes import AutoString


def plain(kind: str, item: Any, context: Any) -> str | Literal[False]:
    """Return a type as SQLAlchemy's own, which a revision still knows when ours have changed."""
    if kind != "type":
        return False
    if isinstance(item, sa.Enum):
        return f"sa.String({item.length})"
    if isinstance(item, AutoString):
        return "sa.String()"
    if isinstance(item, sa.BigInteger):
        return 'sa.BigInteger().with_variant(sa.Integer(), "sqlite")'
    if isinstance(item, sa.types.TypeDecorator):
        there = item.load_dialect_impl(sa.dialects.postgresql.dialect())
        same = type(there) is type(item.impl_instance)
        return f"sa.{type(item.impl_instance).__name__}()" + (
            "" if same else f'.with_variant(sa.{type(there).__name__}(), "postgresql")'
        )
    return False


def fill(context: Any, revision: Any, directives: Sequence[Any]) -> None:
    """Give new columns that may not be empty the default of their model, for rows that are there already."""
    for table in directives[0].upgrade_ops.ops:
        for operation in getattr(table, "ops", ()):
            column = getattr(operation, "column", None)
            if isinstance(column, sa.Column) and not column.nullable and column.server_default is None:
                column.server_default = _literal(column)


def _literal(column: sa.Column[Any]) -> sa.DefaultClause | None:
    """Return the default as text, which both databases make a number or a truth of by the column's type."""
    default = column.default
    if not isinstance(default, sa.ColumnDefault) or not default.is_scalar:
        return None
    dialect = sqlite.dialect()
    stored = column.type.dialect_impl(dialect).bind_processor(dialect)
    value = stored(default.arg) if stored else default.arg
    return None if isinstance(value, bytes) else sa.DefaultClause(str(value))


def main(message: str) -> int:
    """Write the file and say which; return the exit code."""
    with tempfile.TemporaryDirectory() as place:
        database = Database(f"sqlite:///{Path(place) / 'empty.db'}")
        database.create_tables()
        number = len(running.revisions(database.engine)) + 1
        with database.engine.connect() as connection:
            config = running.alembic_config()
            config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
            config.attributes.update(
                connection=connection, options={"render_item": plain, "process_revision_directives": fill}
            )
            script: Any = command.revision(config, message, autogenerate=True, rev_id=f"{number:04}")
    print(f"{script.path}: read it: make check formats it, make test TEST_ARGS=tests/core/test_migrations.py tries it")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        raise SystemExit('say what it does: make revision MESSAGE="keep the colour of devices"')
    raise SystemExit(main(sys.argv[1]))
