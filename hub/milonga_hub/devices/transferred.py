"""How much came to devices, from the hub and from neighbours: added up by device and project, as devices tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, func

from milonga_hub.db import Database
from milonga_hub.devices.models import Device, Transferred
from milonga_hub.devices.values import DeviceTransfers, Download

# A download that was begun anew so often was moved as often.
_MOST_TIMES = 10
_FIELDS = ("whole_bytes", "moved_bytes", "neighbour_bytes", "served_bytes")


@dataclass(frozen=True)
class Totals:
    """Sums of Transferred."""

    whole_bytes: int = 0
    moved_bytes: int = 0
    neighbour_bytes: int = 0
    served_bytes: int = 0


def believed(project: str, whole_bytes: int, moved_bytes: int, neighbours: Mapping[str, int]) -> Download:
    """Return what a device may have moved for files of so many bytes, of what it says: nothing negative, and not the world."""
    left_bytes, sent = whole_bytes, {}
    for name, told_bytes in sorted(neighbours.items()):
        sent[name] = min(max(0, told_bytes), left_bytes)
        left_bytes -= sent[name]
    from_neighbours = sum(sent.values())
    moved = min(max(from_neighbours, moved_bytes), _MOST_TIMES * whole_bytes)
    return Download(project, whole_bytes, moved, {name: size for name, size in sent.items() if size})


def add(session: Session, device: str, download: Download) -> None:
    """Add a download to what came to the device, and to what those sent that are devices of this hub."""
    own = {"moved_bytes": download.moved_bytes, "neighbour_bytes": sum(download.neighbours.values())}
    _add(session, device, download.project, {"whole_bytes": download.whole_bytes, **own})
    named = sa.select(col(Device.name)).where(col(Device.name).in_(download.neighbours), col(Device.name) != device)
    for name in session.connection().execute(named).scalars().all():
        _add(session, name, download.project, {"served_bytes": download.neighbours[name]})


def _add(session: Session, device: str, project: str, values: Mapping[str, int]) -> None:
    kept = session.get(Transferred, (device, project)) or Transferred(device=device, project=project)
    for name, value in values.items():
        setattr(kept, name, getattr(kept, name) + value)
    session.add(kept)
    # Others of the same commit look for it.
    session.flush()


def of_device(database: Database, device: str, serves_at: tuple[str, ...]) -> DeviceTransfers:
    """Return what came to a device, and what it sent to others."""
    found = _totals(database, col(Transferred.device) == device)
    return DeviceTransfers(serves_at=[*serves_at], **vars(found))


def of_project(database: Database, project: str) -> Totals:
    """Return what came to all devices of a project's builds."""
    return _totals(database, col(Transferred.project) == project)


def _totals(database: Database, where: Any) -> Totals:
    sums = [func.coalesce(func.sum(getattr(Transferred, name)), 0) for name in _FIELDS]
    with database.session() as session:
        # PostgreSQL sums whole numbers as decimals.
        return Totals(*map(int, session.connection().execute(sa.select(*sums).where(where)).one()))
