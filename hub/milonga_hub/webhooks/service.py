"""Webhooks: who is told of what, and the loop that sees what happens and puts it into the outbox, each once."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from sqlmodel import Session, col, select

from milonga_hub.db import Database, utc_now
from milonga_hub.errors import InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.outbox import DeliveryState, Outbox
from milonga_hub.paging import page
from milonga_hub.posting import cloud_event, post
from milonga_hub.projects.rules import check_known
from milonga_hub.webhooks import rules
from milonga_hub.webhooks.models import Happening, Webhook, WebhookDelivery, WebhookSpec, WebhookView

_log = logging.getLogger(__name__)

# Looked at again this often without news.
_LOOK_SECONDS = 30.0
# News come in bursts; one look answers all of a burst.
_SETTLE_SECONDS = 1.0
# How far was looked is written down this often, where there is nothing to tell; what is looked at again costs little.
_NOTED_EVERY = timedelta(seconds=30)
_MOST = 100
_SECRET_BYTES = 32
_Webhooks = list[Webhook]
_Deliveries = list[WebhookDelivery]


class Seeing(Protocol):
    def happened(self, since: datetime) -> list[Happening]:
        """Return what has happened since then, in its order."""

    def projects(self) -> list[str]:
        """Return the names of the projects that the caller may see."""


class WebhookService(Outbox[WebhookDelivery]):
    """Keeps webhooks; `run` carries their messages, `watch` makes them."""

    def __init__(
        self,
        database: Database,
        events: EventBus,
        sight: Seeing,
        source: str = "/",
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """`source` names the hub in the events that it sends."""
        super().__init__(database, WebhookDelivery, col(WebhookDelivery.webhook), clock)
        self._events = events
        self._sight = sight
        self._source = source
        self._looking = database.turn("webhooks")

    # Webhooks

    def list(self) -> _Webhooks:
        """Return all webhooks by name."""
        with self._database.session() as session:
            return [*session.exec(select(Webhook).order_by(col(Webhook.name)))]

    def get(self, name: str) -> Webhook:
        with self._database.session() as session:
            found = session.get(Webhook, name)
        if found is None:
            raise NotFound(f"there is no webhook {name!r}; see: milonga webhooks ls")
        return found

    def apply(self, name: str, spec: WebhookSpec) -> tuple[Webhook, str]:
        """Create or change a webhook; return it, and its secret where that is new. It hears of what happens from now on.

        A secret that is left out stays as it is, unless the address changes: then there is a new one. Raises NotFound for a
        project that there is not: nothing would ever be told of it.
        """
        rules.check_name(name)
        check_known(spec.project, self._sight.projects())
        now = self._clock()
        with self._looking, self._database.session() as session:
            self._database.begin_writing(session)
            known = session.get(Webhook, name)
            if known is None and len(self.list()) >= _MOST:
                raise InvalidInput(f"there are {_MOST} webhooks already; delete one: milonga webhooks delete NAME")
            is_kept = known is not None and not spec.secret and known.url == spec.url
            secret = (
                known.secret if known is not None and is_kept else spec.secret or secrets.token_urlsafe(_SECRET_BYTES)
            )
            webhook = session.merge(
                Webhook(
                    name=name,
                    url=spec.url,
                    events=sorted(set(spec.events)),
                    project=spec.project,
                    give_up_after_seconds=spec.give_up_after_seconds,
                    created_at=known.created_at if known else now,
                    secret=secret,
                    told_until=known.told_until if known else now,
                )
            )
        return webhook, "" if is_kept else secret

    def delete(self, name: str) -> None:
        """Tell it nothing more; what waits for it is given up."""
        with self._looking, self._database.session() as session:
            found = session.get(Webhook, name)
            if found is None:
                raise NotFound(f"there is no webhook {name!r}; see: milonga webhooks ls")
            session.delete(found)
        self.wake()

    def test(self, name: str) -> str:
        """Send a test event now and return what the other side answered. Raises ChannelFailed where it was not taken."""
        webhook, now = self.get(name), self._clock()
        id = f"test-{uuid.uuid4().hex[:12]}"
        body = cloud_event(self._source, id, rules.TEST, now, {"message": "events will reach you this way"})
        return post(webhook.url, webhook.secret, id, body.encode(), now)

    def redeliver(self, webhook: str, id: str = "") -> _Deliveries:
        """Send a message that was given up once more, or all of them; return those. Raises NotFound where there is none."""
        self.get(webhook)
        wanted = [col(WebhookDelivery.webhook) == webhook, *([col(WebhookDelivery.id) == id] if id else [])]
        found = self.again(*wanted)
        if not found:
            what = f"message {id!r} to {webhook}" if id else f"message to {webhook}"
            raise NotFound(f"no {what} was given up; see: milonga webhooks deliveries --given-up")
        return found

    def deliveries(
        self, webhook: str = "", state: DeliveryState | None = None, page_size: int = 0, page_token: str = ""
    ) -> tuple[_Deliveries, str]:
        """Return messages, the newest first. Raises NotFound for a webhook that there is not, and never was of late."""
        statement = select(WebhookDelivery)
        if webhook:
            self._check_known(webhook)
            statement = statement.where(WebhookDelivery.webhook == webhook)
        if state is not None:
            statement = statement.where(WebhookDelivery.state == state)
        with self._database.session() as session:
            return page(session, statement, col(WebhookDelivery.id), page_size, page_token, newest_first=True)

    def _check_known(self, name: str) -> None:
        # Of one that was deleted, what was sent is listed on.
        sent = select(WebhookDelivery.id).where(WebhookDelivery.webhook == name).limit(1)
        with self._database.session() as session:
            if session.exec(sent).first() is not None:
                return
        self.get(name)

    # Seeing

    async def watch(self) -> None:
        """Look again after news, and at least every half minute, until cancelled."""
        with self._events.listen("devices/", "projects/", "rollouts/", "builds/", "datasets/", "alerts/") as news:
            while True:
                began = time.monotonic()
                try:
                    await asyncio.to_thread(self.look)
                except Exception:
                    # A database that is busy for a moment must not end the hub; the next look finds the same.
                    _log.exception("could not look for what webhooks are told of; trying again")
                # A large fleet always has news: never more than a tenth of the time.
                settle_seconds = max(_SETTLE_SECONDS, 9 * (time.monotonic() - began))
                try:
                    await news.next(_LOOK_SECONDS)
                    await asyncio.sleep(settle_seconds)
                    news.waiting()
                except TimeoutError:
                    continue

    def look(self) -> int:
        """Put what has happened into the outbox, once for each webhook that wants to hear; return how many messages."""
        with self._looking:
            now, webhooks = self._clock(), self.list()
            if not webhooks:
                return 0
            happened = self._sight.happened(min(rules.looked_from(one.created_at, one.told_until) for one in webhooks))
            with self._database.session() as session:
                self._database.begin_writing(session)
                made = sum(self._queue(session, webhook, happened, now) for webhook in webhooks)
        if made:
            self.wake()
        return made

    def _queue(self, session: Session, webhook: Webhook, happened: Sequence[Happening], now: datetime) -> int:
        since = rules.looked_from(webhook.created_at, webhook.told_until)
        queued = select(WebhookDelivery.id).where(
            WebhookDelivery.webhook == webhook.name, col(WebhookDelivery.created_at) >= since - rules.LATE
        )
        known = {*session.exec(queued)}
        found = {
            rules.delivery_id(webhook, one): one for one in happened if one.at >= since and rules.hears(webhook, one)
        }
        new = {id: one for id, one in found.items() if id not in known}
        session.add_all(self._message(webhook, id, one, now) for id, one in new.items())
        if new or now - webhook.told_until >= _NOTED_EVERY:
            webhook.told_until = now
            session.add(webhook)
        return len(new)

    def _message(self, webhook: WebhookView, id: str, one: Happening, now: datetime) -> WebhookDelivery:
        project = one.projects[0] if len(one.projects) == 1 else ""
        body = cloud_event(self._source, rules.event_id(one), one.kind, one.at, one.data, one.subject, project)
        return WebhookDelivery(
            id=id,
            webhook=webhook.name,
            event=one.kind,
            subject=one.subject,
            created_at=now,
            next_attempt_at=now,
            body=body,
        )

    def _limit_seconds(self, to: str) -> float:
        return self.get(to).give_up_after_seconds

    def _send(self, row: WebhookDelivery) -> str:
        webhook = self.get(row.webhook)
        return post(webhook.url, webhook.secret, row.id, row.body.encode(), self._clock())
