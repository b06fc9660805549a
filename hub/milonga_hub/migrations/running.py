"""Bring the tables of a database to a revision, up or down: all of the way in one transaction, and one process at a time."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, inspect, text

from milonga_hub import postgres
from milonga_hub.db import connected
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.hubs.rules import AWAY, why_not_change

_log = logging.getLogger(__name__)

# How models and tables are compared, and revisions written: SQLite changes a column by making its table anew.
COMPARED: dict[str, Any] = {"compare_type": True, "render_as_batch": True}
# Before the first revision.
BASE = "base"
_FOLDER = Path(__file__).parent
_MEMBERS = "hub_member"
_IDLE_SECONDS = 60
# Of every version.
_OURS = {"device", "project", "telemetry_window"}


@dataclass(frozen=True)
class Revision:
    """One step of the chain; `reached` where the database has it."""

    name: str
    about: str
    reached: bool


def revisions(engine: Engine) -> list[Revision]:
    """Return the whole chain, the first at first. Raises FailedPrecondition for a database of a newer hub."""
    with connected(engine) as connection:
        known = _chain()
        current = _current(connection, known)
    reached = {each.revision for each in known.iterate_revisions(current, BASE)} if current else set()
    chain = [*known.walk_revisions()][::-1]
    return [Revision(each.revision, each.doc.rstrip("."), each.revision in reached) for each in chain]


def reached_at(target: str) -> set[str]:
    """Return the names of the revisions that a database at this one has. Raises InvalidInput where there is none of that name."""
    names = _names(_chain())
    return {*names[1 : _place(names, target) + 1]}


def newest() -> str:
    """Return the name of the last revision."""
    return _names(_chain())[-1]


def upgrade(engine: Engine) -> None:
    """Make the tables, or bring those of an earlier hub to this one's. Raises FailedPrecondition for those of a newer."""
    if not _is_newest(engine):
        migrate(engine, "head")


def migrate(engine: Engine, target: str) -> None:
    """Go up or down to the revision: its name, "head" or "base". Raises InvalidInput where there is none of that name."""
    config, known = alembic_config(), _chain()
    with _alone(engine) as connection:
        current = _current(connection, known)
        if current is None and engine.dialect.name != "sqlite":
            _refuse_foreign(connection)
        _refuse_under_hubs(connection, known, current, target)
        config.attributes["connection"] = connection
        if _is_above(known, target, current):
            command.upgrade(config, target)
        else:
            command.downgrade(config, target)
        _log.info("brought the tables from revision %s to %s", current or "none", _current(connection, known) or "none")


def sql(engine: Engine, target: str) -> str:
    """Return the statements that `migrate` would run, for people who run them themselves."""
    out = io.StringIO()
    config = alembic_config(out)
    config.attributes["dialect"] = engine.dialect.name
    known = _chain()
    with connected(engine) as connection:
        current = _current(connection, known)
        if current is None and _has_tables(connection):
            raise FailedPrecondition(
                "these tables are from before there were revisions: what they lack is found when it is added; run it without --sql"
            )
    way = f"{current or BASE}:{target}"
    try:
        if _is_above(known, target, current):
            command.upgrade(config, way, sql=True)
        else:
            command.downgrade(config, way, sql=True)
    except CommandError as error:
        raise FailedPrecondition(
            "SQLite changes columns by making their table anew, for which the rows have to be at hand; run it without --sql"
        ) from error
    return out.getvalue()


def alembic_config(out: io.StringIO | None = None) -> Config:
    """Return what Alembic's own commands take; its `attributes` name the connection, or the dialect."""
    config = Config(output_buffer=out) if out else Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


@cache
def _chain() -> ScriptDirectory:
    """Read the revisions once: their files are what a hub that starts on finished tables would wait for."""
    known = ScriptDirectory.from_config(alembic_config())
    known.get_current_head()
    return known


def _is_newest(engine: Engine) -> bool:
    known = _chain()
    with connected(engine) as connection:
        return _current(connection, known) == known.get_current_head()


def _current(connection: Connection, known: ScriptDirectory) -> str | None:
    """Return the revision of the database, None where it has none yet."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in _names(known):
        raise FailedPrecondition(
            f"the database is at revision {current}, which this version of Milonga does not know: a newer one was here. Start"
            " that one again, and let it go down first to go back (milonga migrate --to REVISION); or restore a backup from"
            " before it"
        )
    return current


def _refuse_under_hubs(connection: Connection, known: ScriptDirectory, current: str | None, target: str) -> None:
    """Raise FailedPrecondition where hubs are there that use what the way to the target changes: see docs/hubs.md."""
    names = _names(known)
    here, there = names.index(current or BASE), _place(names, target)
    if connection.engine.dialect.name == "sqlite" or here == 0 or not inspect(connection).has_table(_MEMBERS):
        return
    ways = [known.get_revision(name) for name in names[min(here, there) + 1 : max(here, there) + 1]]
    # Whoever goes down takes away.
    path = [
        (way.revision, there > here and bool(getattr(way.module, "adds", False))) for way in ways if way is not None
    ]
    seen = "SELECT id, name FROM hub_member WHERE seen_at > clock_timestamp() AT TIME ZONE 'UTC' - make_interval(secs => %s)"
    found = connection.exec_driver_sql(seen, (AWAY.total_seconds(),)).all()
    why = why_not_change(current or "", path, [name for id_, name in found if postgres.is_there(connection, id_)])
    if why:
        raise FailedPrecondition(why)


def _is_above(known: ScriptDirectory, target: str, current: str | None) -> bool:
    """Return whether the target is where the database is, or above."""
    names = _names(known)
    return _place(names, target) >= names.index(current or BASE)


def _names(known: ScriptDirectory) -> list[str]:
    return [BASE, *reversed([each.revision for each in known.walk_revisions()])]


def _place(names: Sequence[str], target: str) -> int:
    wanted = names[-1] if target == "head" else target
    if wanted not in names:
        raise InvalidInput(f"there is no revision {target!r}; see: milonga migrate --list")
    return names.index(wanted)


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """Hold the database for this process alone until the block ends; undo everything where it fails."""
    with connected(engine) as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            # As long as the other one takes.
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (postgres.MIGRATION,))
            postgres.begin_writing(connection)
            # Who writes has seconds from one statement to the next, which is too little on a busy machine: here all would be undone.
            connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
        yield connection
        connection.commit()


def _has_tables(connection: Connection) -> bool:
    return bool({*inspect(connection).get_table_names()} & _OURS)


def _refuse_foreign(connection: Connection) -> None:
    if _has_tables(connection):
        raise FailedPrecondition(
            "the database has tables of the names that a hub gives, and no revision: they are not this hub's; name an empty"
            " database"
        )
