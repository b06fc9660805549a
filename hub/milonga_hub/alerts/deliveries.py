"""Messages on their way: kept until they have arrived, tried again with longer and longer waits, given up in the end."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import groupby

import sqlalchemy as sa
from sqlmodel import Session, col, delete, select

from milonga_hub.alerts import channels
from milonga_hub.alerts.definitions import Definitions
from milonga_hub.alerts.models import Alert, AlertChannel, AlertDelivery, AlertView, DeliveryState
from milonga_hub.alerts.rules import next_attempt
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import NotFound

_log = logging.getLogger(__name__)

OPENED, RESOLVED, TEST = "opened", "resolved", "test"
# What one message lists; the rest is counted. A webhook's receiver may refuse large bodies.
_LISTED_ALERTS = 50
# The queue is looked at this often without news.
_AGAIN_SECONDS = 60.0
# What has arrived or was given up is kept this long, for the history of its alerts.
_KEPT = timedelta(days=90)


class Deliveries:
    """The queue of messages. It is in the database, so a hub that dies goes on with it."""

    def __init__(self, database: Database, definitions: Definitions, clock: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._definitions = definitions
        self._clock = clock
        self._work = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, session: Session, channel: str, event: str, alerts: Sequence[Alert]) -> None:
        """Queue one message of these alerts, in the caller's transaction; call `wake()` after its commit."""
        now = self._clock()
        id = f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"
        session.add(
            AlertDelivery(
                id=id,
                channel=channel,
                event=event,
                alerts=[alert.id for alert in alerts],
                body=message(id, event, alerts),
                created_at=now,
                next_attempt_at=now,
            )
        )

    def wake(self) -> None:
        """Let the loop look at the queue now. Safe to call from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._work.set)

    def of_alert(self, alert: str) -> list[AlertDelivery]:
        """Return the messages about an alert, oldest first."""
        holds = sa.type_coerce(col(AlertDelivery.alerts), sa.Text).contains(f'"{alert}"', autoescape=True)
        with self._database.session() as session:
            return [*session.exec(select(AlertDelivery).where(holds).order_by(col(AlertDelivery.created_at)))]

    def given_up(self) -> list[AlertDelivery]:
        """Return the messages that never arrived, the newest first."""
        lost = select(AlertDelivery).where(AlertDelivery.state == DeliveryState.GIVEN_UP)
        with self._database.session() as session:
            return [*session.exec(lost.order_by(col(AlertDelivery.created_at).desc()).limit(20))]

    def send_test(self, channel: str) -> str:
        """Send a test message now and return what the other side answered. Raises ChannelFailed where it was not taken."""
        row = self._definitions.channel(channel)
        id = f"test-{uuid.uuid4().hex[:12]}"
        return channels.send(row.spec, id, message(id, TEST, []), self._clock())

    async def run(self) -> None:
        """Carry messages for ever. Channels do not wait for each other."""
        self._loop = asyncio.get_running_loop()
        while True:
            self._work.clear()
            wait_seconds = _AGAIN_SECONDS
            try:
                await self.deliver()
                await asyncio.to_thread(self.forget_old)
                wait_seconds = await asyncio.to_thread(self._seconds_to_next)
            except Exception:
                # A database that is busy for a moment must not end the hub; the queue stays as it is.
                _log.exception("could not work on the messages of alerts; trying again")
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._work.wait()
            except TimeoutError:
                continue

    async def deliver(self) -> None:
        """Try everything that is due once."""
        due = await asyncio.to_thread(self._due)
        by_channel = [list(rows) for _, rows in groupby(due, key=lambda row: row.channel)]
        await asyncio.gather(*(asyncio.to_thread(self._carry, rows) for rows in by_channel))

    def forget_old(self) -> None:
        old = delete(AlertDelivery).where(col(AlertDelivery.ended_at) < self._clock() - _KEPT)
        with self._database.session() as session:
            session.exec(old)

    def waiting_count(self) -> int:
        waiting = sa.select(sa.func.count()).where(col(AlertDelivery.state) == DeliveryState.PENDING)
        with self._database.session() as session:
            return int(session.execute(waiting).scalar_one())

    def _pending(self) -> list[AlertDelivery]:
        waiting = select(AlertDelivery).where(AlertDelivery.state == DeliveryState.PENDING)
        with self._database.session() as session:
            return [*session.exec(waiting.order_by(col(AlertDelivery.channel), col(AlertDelivery.created_at)))]

    def _due(self) -> list[AlertDelivery]:
        now = self._clock()
        return [row for row in self._pending() if row.next_attempt_at is None or row.next_attempt_at <= now]

    def _seconds_to_next(self) -> float:
        times = [row.next_attempt_at for row in self._pending() if row.next_attempt_at is not None]
        return min([_AGAIN_SECONDS, *(max(0.05, (then - self._clock()).total_seconds()) for then in times)])

    def _carry(self, rows: Sequence[AlertDelivery]) -> None:
        """Send a channel's messages in their order; the first that fails ends it for now."""
        for row in rows:
            try:
                channel = self._definitions.channel(row.channel)
            except NotFound:
                self._note(row, None, "the channel was deleted")
                continue
            try:
                channels.send(channel.spec, row.id, row.body, self._clock())
            except channels.ChannelFailed as error:
                self._note(row, channel, str(error))
                return
            self._note(row, channel, "")

    def _note(self, row: AlertDelivery, channel: AlertChannel | None, error: str) -> None:
        now = self._clock()
        row.attempts += 1
        row.error = error
        row.next_attempt_at = None
        if not error:
            row.state, row.ended_at = DeliveryState.DELIVERED, now
        else:
            limit_seconds = channel.spec.give_up_after_seconds if channel else 0.0
            row.next_attempt_at = next_attempt(row.attempts, row.created_at, limit_seconds, now) if channel else None
            if row.next_attempt_at is None:
                row.state, row.ended_at = DeliveryState.GIVEN_UP, now
                _log.error(
                    "gave up a message of alerts to the channel %s after %d attempts: %s",
                    row.channel,
                    row.attempts,
                    error,
                )
            else:
                _log.warning("the channel %s failed, attempt %d: %s", row.channel, row.attempts, error)
        with self._database.session() as session:
            session.merge(row)


def message(id: str, event: str, alerts: Sequence[Alert]) -> str:
    """Return the JSON body: a title for people, and the alerts as the API has them."""
    listed = [AlertView(**{name: getattr(one, name) for name in AlertView.model_fields}) for one in alerts]
    return json.dumps(
        {
            "version": 1,
            "delivery": id,
            "event": event,
            "title": _title(event, alerts),
            "alert_count": len(alerts),
            "alerts": [one.model_dump(mode="json") for one in listed[:_LISTED_ALERTS]],
        },
        ensure_ascii=False,
    )


def _title(event: str, alerts: Sequence[Alert]) -> str:
    if event == TEST:
        return "Milonga: a test message; alerts will reach you this way"
    done = "resolved" if event == RESOLVED else alerts[0].severity.lower()
    first = alerts[0].message
    return f"Milonga {done}: {first}" if len(alerts) == 1 else f"Milonga {done}: {first}, and {len(alerts) - 1} more"
