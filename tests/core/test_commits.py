"""Changes that are written together."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.commits import Change, Commits
from milonga_hub.db import Database
from milonga_hub.devices.models import KnownBundle
from sqlalchemy import event
from sqlmodel import Session, select

from tests.databases import database_url


class Kept:
    """A database that counts its commits."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(database_url(folder / "hub.db"))
        self.database.create_tables()
        self.commits = Commits(self.database)
        self.count = 0
        event.listen(self.database.engine, "commit", self._count)

    def _count(self, connection: object) -> None:
        self.count += 1

    def names(self) -> list[str]:
        with self.database.session() as session:
            return sorted(session.exec(select(KnownBundle.bundle)).all())


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def _adding(name: str) -> Change[str]:
    def change(session: Session) -> str:
        session.add(KnownBundle(bundle=name))
        session.flush()
        return name

    return change


def test_changes_that_come_at_the_same_time_are_one_commit(kept: Kept) -> None:
    async def story() -> list[str]:
        return await asyncio.gather(*(kept.commits.soon(_adding(f"{n:02}")) for n in range(50)))

    assert asyncio.run(story()) == kept.names() == [f"{n:02}" for n in range(50)]
    assert kept.count <= 3, "the first, and those that came while it was written, beside the reading here"


def test_a_change_that_fails_undoes_itself_alone(kept: Kept) -> None:
    def failing(session: Session) -> str:
        session.add(KnownBundle(bundle="never"))
        session.flush()
        raise ValueError("no")

    async def story() -> list[object]:
        changes: list[Change[str]] = [_adding("a"), _adding("b"), failing, _adding("c"), _adding("b")]
        return await asyncio.gather(*(kept.commits.soon(change) for change in changes), return_exceptions=True)

    told = asyncio.run(story())
    assert [str(told[0]), str(told[1]), str(told[3])] == ["a", "b", "c"]
    assert isinstance(told[2], ValueError) and isinstance(told[4], Exception), "b is there already"
    assert kept.names() == ["a", "b", "c"]


def test_a_change_is_made_where_nobody_waits_for_it_any_more(kept: Kept) -> None:
    began = threading.Event()

    def slow(session: Session) -> None:
        began.wait(10)
        session.add(KnownBundle(bundle="late"))

    told: list[list[str]] = []

    async def story() -> None:
        waiting = asyncio.create_task(kept.commits.soon(slow, then=lambda _: told.append(kept.names())))
        await asyncio.sleep(0)
        waiting.cancel()
        began.set()
        await kept.commits.soon(_adding("after"))

    asyncio.run(story())
    assert kept.names() == ["after", "late"]
    assert "late" in told[0]


def test_what_follows_a_change_fails_for_who_made_it_alone(kept: Kept) -> None:
    async def story() -> Any:
        return await asyncio.gather(
            kept.commits.soon(_adding("a"), then=lambda name: kept.names().remove("z")),
            kept.commits.soon(_adding("b")),
            return_exceptions=True,
        )

    first, second = asyncio.run(story())
    assert isinstance(first, ValueError) and second == "b"
    assert kept.names() == ["a", "b"]


def test_changes_keep_their_order(kept: Kept) -> None:
    seen: list[int] = []

    async def story() -> None:
        await asyncio.gather(*(kept.commits.soon(lambda session, n=n: seen.append(n)) for n in range(500)))  # type: ignore[misc]

    asyncio.run(story())
    assert seen == list(range(500))
