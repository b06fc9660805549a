"""Who leads, who is there, and who may come to others: decided from what the database says, by its clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from milonga_hub.hubs.models import HubMember, HubState

# A leader that says nothing for so long leads no more; it says so three times as often.
LEASE = timedelta(seconds=6)
BEAT_SECONDS = 2.0
# Whoever says nothing for so long is away.
AWAY = timedelta(seconds=10)
# Those that did not end by themselves are shown for so long.
REMEMBERED = timedelta(hours=1)


@dataclass(frozen=True)
class Held:
    """The lease as it is now. `alive`: whether the connection by which its holder is known is open."""

    holder: str
    expires_at: datetime
    alive: bool


def may_take(held: Held, hub: str, now: datetime, *, knows_tables: bool) -> bool:
    """Return whether this hub may take the lead. One of an older version leaves it to those that know the tables."""
    if not knows_tables:
        return False
    return held.holder in ("", hub) or not held.alive or held.expires_at <= now


def is_there(member: HubMember, now: datetime) -> bool:
    return now - member.seen_at < AWAY


def state_of(member: HubMember, leader: str, now: datetime) -> HubState:
    if not is_there(member, now):
        return HubState.LOST
    return HubState.LEADING if member.id == leader else HubState.SERVING


def why_not_beside(new: HubMember, others: Sequence[HubMember]) -> str:
    """Return why the hub cannot come to those that are there, "" where it can."""
    for other in others:
        if other.folder != new.folder:
            return (
                f"another hub is using it with another data folder ({other.name}); hubs of one database share one folder,"
                " with the keys and the files: name it with --data-dir, or stop that hub"
            )
        if not new.broker or not other.broker:
            return (
                f"another hub is using it ({other.name}), and telemetry would reach one of them alone: name one broker for"
                " all hubs (--broker mqtts://broker.example:8883, see docs/broker.md), or stop that hub"
            )
        if other.broker != new.broker:
            return f"another hub ({other.name}) has the broker {other.broker}, and this one {new.broker}; name the same for all"
    return ""


def why_not_change(from_: str, path: Sequence[tuple[str, bool]], others: Collection[str]) -> str:
    """Return why tables cannot change under the hubs that are there, "" where they can: each revision only adds.

    `path` is what lies between: names of revisions, and whether they only add.
    """
    if not others or all(adds for _, adds in path):
        return ""
    last = next(name for name, adds in path if not adds)
    return (
        f"revision {last} changes what hubs at {from_ or 'none'} use; stop them first ({', '.join(sorted(others))}): this step"
        " cannot be made one hub after the other"
    )
