"""What the hub wants devices to serve: many wishes in one commit, and then at once on the streams of those that are connected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlmodel import Session, col, select

from milonga_hub.commits import Commits
from milonga_hub.db import Database
from milonga_hub.devices import rules
from milonga_hub.devices.models import Assignment, Device, File, KnownBundle, ShadowSpec
from milonga_hub.devices.streams import Streams
from milonga_hub.devices.values import NewAssignment
from milonga_hub.errors import NotFound
from milonga_hub.events import EventBus

T = TypeVar("T")

# SQLite takes 32,766 values in one statement.
_NAMES_PER_STATEMENT = 1000
_KNOWN = [col(getattr(Device, name)) for name in ("name", "reported_generation", "active_bundle")]
_NEWEST = [
    col(getattr(Assignment, name)) for name in ("device", "generation", "bundle", "model_version", "project", "shadow")
]
_NOTE = (
    sa.update(Device)
    .where(col(Device.name) == sa.bindparam("device"))
    .values(assigned_generation=sa.bindparam("given"))
)


@dataclass(frozen=True)
class Wanted:
    """What a device shall serve ("" for nothing). With `shadow`, only where it compares well with what serves now."""

    device: str
    bundle: str
    files: Sequence[File]
    model_version: str
    project: str
    engine: str
    expected_ms: float = 0.0
    shadow: ShadowSpec | None = None
    # Want it again, under a new generation, where the device has given up the same wish: it would not look at it otherwise.
    again: bool = False


# Tells other hubs of devices, if the session commits.
Announce = Callable[[Session, Sequence[str]], None]


def nobody_else(session: Session, devices: Sequence[str]) -> None:
    """There are no other hubs."""


class Assigning:
    """Gives out assignments. Safe to use from any thread."""

    def __init__(
        self,
        database: Database,
        events: EventBus,
        streams: Streams,
        clock: Callable[[], datetime],
        announce: Announce = nobody_else,
    ) -> None:
        """`announce` tells other hubs of these devices, if the session commits: their streams may be there."""
        self._database = database
        self._commits = Commits(database)
        self._events = events
        self._streams = streams
        self._clock = clock
        self._announce = announce

    def assign(self, wanted: Sequence[Wanted]) -> dict[str, int]:
        """Want each device to serve its bundle and return the generations of these wishes, all or none.

        The same wish as the newest of a device keeps its generation. Wishes are stored first, then sent to the devices that
        are connected; others get theirs when they connect. Raises NotFound for a device that is not there.
        """
        generations, given = self._commits.now(lambda session: self._given(session, wanted))
        for each in given:
            self._streams.send(each.device, "assignment", each)
        # After all are on their way: it takes longer than giving them out.
        for device in self._devices([each.device for each in given]):
            self._events.publish(f"devices/{device.name}", device)
        return generations

    def projects(self, devices: Sequence[str]) -> dict[str, str]:
        """Return by device the project that it is assigned to; without those that are assigned to none."""
        columns = [col(Assignment.device), col(Assignment.project)]
        with self._database.session() as session:
            return {
                row.device: row.project for row in _rows(session, columns, Assignment.device, devices) if row.project
            }

    def _given(self, session: Session, wanted: Sequence[Wanted]) -> tuple[dict[str, int], list[NewAssignment]]:
        """Return the generation of each wish, and those that are new."""
        self._database.begin_writing(session)
        names = [each.device for each in wanted]
        known = {row.name: row for row in _rows(session, _KNOWN, Device.name, names)}
        newest = {row.device: row for row in _rows(session, _NEWEST, Assignment.device, names)}
        generations, given = {}, []
        for each in wanted:
            device, last = known.get(each.device), newest.get(each.device)
            if device is None:
                raise NotFound(f"no device {each.device!r}; see: milonga devices list")
            if last is not None and _is_same(last, each, device):
                generations[each.device] = last.generation
                continue
            given.append(_new(each, rules.next_generation(last, device.reported_generation)))
            generations[each.device] = given[-1].generation
        self._write(session, given, {each.bundle: each for each in wanted})
        if given:
            self._announce(session, [each.device for each in given])
        return generations, given

    def _write(self, session: Session, given: Sequence[NewAssignment], bundles: Mapping[str, Wanted]) -> None:
        if not given:
            return
        connection, now = session.connection(), self._clock()
        rows = [{**vars(each), "engine": bundles[each.bundle].engine, "assigned_at": now} for each in given]
        for names in _parts([each.device for each in given]):
            connection.execute(sa.delete(Assignment).where(col(Assignment.device).in_(names)))
        connection.execute(sa.insert(Assignment), rows)
        connection.execute(_NOTE, [{"device": each.device, "given": each.generation} for each in given])
        for bundle, each in bundles.items():
            if bundle:
                about = {"model_version": each.model_version, "project": each.project, "engine": each.engine}
                session.merge(KnownBundle(bundle=bundle, **about))

    def _devices(self, names: Sequence[str]) -> list[Device]:
        with self._database.session() as session:
            return [
                device
                for part in _parts(names)
                for device in session.exec(select(Device).where(col(Device.name).in_(part)))
            ]


def _is_same(last: Any, wanted: Wanted, device: Any) -> bool:
    """Whether the newest wish is this one already, and the device still looks at it or need not."""
    if (last.bundle, last.model_version, last.project) != (wanted.bundle, wanted.model_version, wanted.project):
        return False
    serves = bool(device.active_bundle == wanted.bundle)
    gave_up = device.reported_generation >= last.generation and not serves
    # How it comes to serve what it serves is of no interest any more.
    return not (wanted.again and gave_up) and (serves or last.shadow == wanted.shadow)


def _new(wanted: Wanted, generation: int) -> NewAssignment:
    # Everything in it was checked when it was made.
    return NewAssignment.model_construct(
        device=wanted.device,
        generation=generation,
        bundle=wanted.bundle,
        files=[*wanted.files],
        model_version=wanted.model_version,
        project=wanted.project,
        expected_ms=wanted.expected_ms,
        shadow=wanted.shadow,
    )


def _rows(session: Session, columns: Sequence[Any], key: Any, names: Sequence[str]) -> Iterator[Any]:
    for part in _parts(names):
        yield from session.connection().execute(sa.select(*columns).where(col(key).in_(part)))


def _parts(names: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(names), _NAMES_PER_STATEMENT):
        yield names[start : start + _NAMES_PER_STATEMENT]
