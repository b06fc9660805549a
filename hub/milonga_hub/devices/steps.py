"""What devices told last of their assignments, for many of them at a time."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlmodel import Session, col, func

from milonga_hub.devices.models import StepLog
from milonga_hub.devices.values import LastStep

# SQLite takes 32,766 values in one statement.
_DEVICES_PER_STATEMENT = 1000
_TOLD = [col(getattr(StepLog, name)) for name in ("device", "generation", "step", "state", "message")]


def last_steps(session: Session, generations: Mapping[str, int]) -> dict[str, LastStep]:
    """Return by device the last report of this generation, that of a failure before all others."""
    names = [*generations]
    found: dict[str, LastStep] = {}
    failed: set[str] = set()
    shadows: dict[str, str] = {}
    for start in range(0, len(names), _DEVICES_PER_STATEMENT):
        part = names[start : start + _DEVICES_PER_STATEMENT]
        for row in session.connection().execute(_statement(part, min(generations[name] for name in part))):
            if row.generation != generations[row.device]:
                continue
            if (row.step, row.state) == ("SHADOW", "SUCCEEDED"):
                shadows[row.device] = row.message
            if row.state == "FAILED":
                failed.add(row.device)
            if row.state == "FAILED" or row.device not in failed:
                found[row.device] = LastStep(row.step, row.message, "")
    return {name: last._replace(shadow=shadows.get(name, "")) for name, last in found.items()}


def _statement(names: list[str], least_generation: int) -> sa.Select[tuple[str, int, str, str, str]]:
    """Select the newest report of each generation, and those that tell of a failure or of a shadow, oldest first."""
    concerned = sa.and_(col(StepLog.device).in_(names), col(StepLog.generation) >= least_generation)
    newest = sa.select(func.max(StepLog.id)).where(concerned).group_by(col(StepLog.device), col(StepLog.generation))
    compared = sa.and_(col(StepLog.step) == "SHADOW", col(StepLog.state) == "SUCCEEDED")
    telling = sa.or_(col(StepLog.state) == "FAILED", compared, col(StepLog.id).in_(newest))
    return sa.select(*_TOLD).where(concerned, telling).order_by(col(StepLog.id))
