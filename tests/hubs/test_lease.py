"""Hubs of one PostgreSQL: one leads, another takes over, and who led once writes nothing more for the lead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from milonga_hub import fencing
from milonga_hub.accounts.models import FailedSignIns
from milonga_hub.db import Database
from milonga_hub.fencing import LeadLost
from milonga_hub.hubs.models import HubState
from milonga_hub.hubs.service import Membership
from sqlalchemy import text
from sqlmodel import select

from tests.databases import postgresql_url


@pytest.fixture
def url(tmp_path: Path, postgresql: str) -> str:
    return postgresql_url(tmp_path / "hub", postgresql)


@contextmanager
def member(url: str) -> Iterator[Membership]:
    database = Database(url)
    made = Membership(database)
    made.enter(folder="shared", broker="mqtts://broker")
    yield made
    made.leave()
    database.close()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does; what never comes fails at the test's timeout."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def write(database: Database, subject: str) -> None:
    with database.session() as session:
        session.add(FailedSignIns(subject=subject))


def test_the_first_leads_and_the_next_takes_over_when_it_leaves(url: str) -> None:
    with member(url) as first, member(url) as second:
        assert first.leads and not second.leads
        assert [each.state for each in second.standings()] == [HubState.LEADING, HubState.SERVING]
        assert [each.is_this for each in second.standings()] == [False, True]
        since = [each.leads_since for each in second.standings()]
        assert since[0] is not None and since[1] is None

        async def story() -> None:
            led = asyncio.Event()

            async def lead() -> None:
                led.set()
                await asyncio.get_running_loop().create_future()

            running = asyncio.create_task(second.run(lead))
            first.leave()
            second.look()
            await asyncio.wait_for(led.wait(), 60)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        asyncio.run(story())
        assert second.leads and second.fence is not None and second.fence.number == 2


def test_who_led_once_cannot_write_for_the_lead_and_still_serves(url: str) -> None:
    database = Database(url)
    with member(url) as first, member(url) as second:
        fence = first.fence
        assert fence is not None
        with fencing.within(fence):
            write(database, "while it leads")
        first.leave()
        second._beat()
        assert second.leads
        with fencing.within(fence):
            with pytest.raises(LeadLost):
                write(database, "after it led")
            with pytest.raises(LeadLost), database.session() as session:
                database.begin_writing(session)
            with pytest.raises(LeadLost):
                fencing.demand()
        write(database, "asked by somebody")
    with database.session() as session:
        assert {each.subject for each in session.exec(select(FailedSignIns))} == {"while it leads", "asked by somebody"}
    database.close()


def test_the_lead_changes_hands_only_between_transactions_that_are_written_for_it(url: str) -> None:
    database = Database(url)
    with member(url) as first, member(url) as second:
        with fencing.within(first.fence), database.session() as session:
            session.add(FailedSignIns(subject="in the middle"))
            session.flush()
            _forget_holder(url)

            async def story() -> None:
                taking = asyncio.create_task(asyncio.to_thread(second._beat))
                await eventually(lambda: _waits(url))
                assert not second.leads
                session.commit()
                await taking

            asyncio.run(story())
        assert second.leads
        first._beat()
        assert not first.leads
    database.close()


def test_a_server_that_was_away_makes_a_hub_step_down_and_come_back(url: str) -> None:
    with member(url) as hub:
        begun = []

        async def story() -> None:
            async def lead() -> None:
                begun.append(fencing.number())
                await asyncio.get_running_loop().create_future()

            running = asyncio.create_task(hub.run(lead))
            await eventually(lambda: begun == [1])
            _end_connections(url)
            hub.look()
            # Nobody took the lead meanwhile: it is kept, or taken again.
            await eventually(lambda: hub.id in hub.alive() and hub.leads and hub._connection is not None)
            assert not running.done()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        asyncio.run(story())


def test_of_two_hubs_one_at_a_time_has_a_turn(url: str) -> None:
    one, other = Database(url), Database(url)
    inside: list[str] = []

    def take() -> None:
        with other.turn("rollouts"):
            inside.append("other")

    async def story() -> None:
        with one.turn("rollouts") as turn, turn:
            waiting = asyncio.create_task(asyncio.to_thread(take))
            await eventually(lambda: _waits(url))
            inside.append("one")
        await waiting

    asyncio.run(story())
    assert inside == ["one", "other"]
    one.close()
    other.close()


def _ask(url: str, statement: str) -> int:
    database = Database(url)
    with database.engine.begin() as connection:
        found = connection.execute(text(statement))
        count = int(found.scalar_one()) if found.returns_rows else 0
    database.close()
    return count


def _waits(url: str) -> bool:
    return _ask(url, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") > 0


def _forget_holder(url: str) -> None:
    """Let the lease be over, as after a pause."""
    database = Database(url)
    with database.engine.connect() as connection:
        # Not by a transaction that waits for those who write.
        connection.exec_driver_sql("UPDATE lease SET expires_at = expires_at - interval '1 hour'")
        connection.commit()
    database.close()


def _end_connections(url: str) -> None:
    _ask(
        url,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
