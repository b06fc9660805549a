"""What is sent about alerts: one message of many to each channel, in the outbox until it has arrived."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from milonga_hub.alerts import channels
from milonga_hub.alerts.definitions import Definitions
from milonga_hub.alerts.models import Alert, AlertDelivery
from milonga_hub.alerts.rules import TEST, told
from milonga_hub.db import Database, utc_now
from milonga_hub.outbox import Outbox
from milonga_hub.posting import cloud_event


class Deliveries(Outbox[AlertDelivery]):
    """The messages of alerts to channels."""

    def __init__(
        self, database: Database, definitions: Definitions, source: str, clock: Callable[[], datetime] = utc_now
    ) -> None:
        """`source` names the hub in the events that it sends."""
        super().__init__(database, AlertDelivery, col(AlertDelivery.channel), clock)
        self._definitions = definitions
        self._source = source

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
                body=self._message(id, event, alerts, now),
                created_at=now,
                next_attempt_at=now,
            )
        )

    def of_alert(self, alert: str) -> list[AlertDelivery]:
        """Return the messages about an alert, oldest first."""
        holds = sa.type_coerce(col(AlertDelivery.alerts), sa.Text).contains(f'"{alert}"', autoescape=True)
        with self._database.session() as session:
            return [*session.exec(select(AlertDelivery).where(holds).order_by(col(AlertDelivery.created_at)))]

    def send_test(self, channel: str) -> str:
        """Send a test message now and return what the other side answered. Raises ChannelFailed where it was not taken."""
        row = self._definitions.channel(channel)
        id = f"test-{uuid.uuid4().hex[:12]}"
        return channels.send(row.spec, id, self._message(id, TEST, [], self._clock()), self._clock())

    def _message(self, id: str, event: str, alerts: Sequence[Alert], now: datetime) -> str:
        kind = event if event == TEST else f"alert.{event}"
        return cloud_event(self._source, id, kind, now, told(event, alerts))

    def _limit_seconds(self, to: str) -> float:
        return self._definitions.channel(to).spec.give_up_after_seconds

    def _send(self, row: AlertDelivery) -> str:
        return channels.send(self._definitions.channel(row.channel).spec, row.id, row.body, self._clock())
