"""Webhooks over a real database and real services, told to real servers."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.db import Database
from milonga_hub.errors import InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.outbox import DeliveryState
from milonga_hub.posting import ChannelFailed
from milonga_hub.webhooks.models import EventKind, Happening, WebhookSpec
from milonga_hub.webhooks.service import WebhookService
from pydantic import ValidationError

from tests.alerts.receivers import WebReceiver, web_receiver
from tests.databases import database_url
from tests.telemetry.windows import START

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "webhooks.md"


class World:
    """What happens is what the test says, with a clock that stands still until it is moved."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.all: list[Happening] = []
        self.database = Database(database_url(folder / "test.db"))
        self.database.create_tables()
        self.webhooks = self.restarted()

    def restarted(self) -> WebhookService:
        self.webhooks = WebhookService(self.database, EventBus(), self, "urn:milonga:hub:5e", lambda: self.now)
        return self.webhooks

    def happened(self, since: datetime) -> list[Happening]:
        return [one for one in self.all if one.at >= since]

    def projects(self) -> list[str]:
        return ["digits", "letters"]

    def happens(self, kind: EventKind, subject: str, *projects: str, seconds: float = 1.0) -> None:
        self.now += timedelta(seconds=seconds)
        self.all.append(Happening(kind=kind, subject=subject, at=self.now, data={"is": subject}, projects=[*projects]))

    def deliver(self) -> None:
        asyncio.run(self.webhooks.deliver())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        yield receiver


def test_an_event_is_told_once_as_a_cloud_event_however_often_the_hub_looks(world: World, web: WebReceiver) -> None:
    world.happens(EventKind.RUN_FINISHED, "projects/digits/runs/1", "digits")
    world.now += timedelta(seconds=1)
    world.webhooks.apply("chat", WebhookSpec(url=web.url))
    world.happens(EventKind.ROLLOUT_PAUSED, "rollouts/digits-1", "digits")
    assert [world.webhooks.look(), world.webhooks.look()] == [1, 0]
    world.restarted()
    assert world.webhooks.look() == 0
    world.deliver()
    world.deliver()
    (body,) = web.bodies
    event = json.loads(body)
    assert event == {
        "specversion": "1.0",
        "id": event["id"],
        "source": "urn:milonga:hub:5e",
        "type": "milonga.rollout.paused",
        "time": world.now.isoformat().replace("+00:00", "Z"),
        "subject": "rollouts/digits-1",
        "project": "digits",
        "datacontenttype": "application/json",
        "data": {"is": "rollouts/digits-1"},
    }
    assert web.headers[0]["Content-Type"].startswith("application/cloudevents+json")


def test_what_happened_while_the_hub_was_down_is_told_after_its_start(world: World, web: WebReceiver) -> None:
    world.webhooks.apply("chat", WebhookSpec(url=web.url))
    world.webhooks.look()
    world.happens(EventKind.RUN_FINISHED, "projects/digits/runs/1", seconds=30)
    world.happens(EventKind.RUN_FINISHED, "projects/digits/runs/2", seconds=7200)
    world.restarted()
    assert world.webhooks.look() == 2
    assert world.webhooks.look() == 0


def test_what_is_written_late_is_told_all_the_same(world: World, web: WebReceiver) -> None:
    world.webhooks.apply("chat", WebhookSpec(url=web.url))
    world.happens(EventKind.RUN_FINISHED, "projects/digits/runs/1", seconds=120)
    assert world.webhooks.look() == 1
    late = Happening(kind=EventKind.RUN_FINISHED, subject="x", at=world.now - timedelta(seconds=10), data={})
    world.all.append(late)
    assert world.webhooks.look() == 1


def test_a_webhook_for_a_project_that_there_is_not_is_refused_with_those_that_there_are(world: World) -> None:
    with pytest.raises(NotFound, match="no project 'digit'; there are: digits, letters"):
        world.webhooks.apply("chat", WebhookSpec(url="http://127.0.0.1:9/", project="digit"))
    assert world.webhooks.list() == []


def test_what_was_sent_is_asked_of_webhooks_that_there_are_or_were(world: World, web: WebReceiver) -> None:
    with pytest.raises(NotFound, match="no webhook 'chat'; see: milonga webhooks ls"):
        world.webhooks.deliveries("chat")
    world.webhooks.apply("chat", WebhookSpec(url=web.url))
    assert world.webhooks.deliveries("chat") == ([], "")
    world.happens(EventKind.RUN_FINISHED, "projects/digits/runs/1")
    world.webhooks.look()
    world.deliver()
    world.webhooks.delete("chat")
    assert [one.state for one in world.webhooks.deliveries("chat")[0]] == [DeliveryState.DELIVERED]
    assert world.webhooks.deliveries("chat", DeliveryState.GIVEN_UP) == ([], "")


def test_a_webhook_hears_what_it_asked_for_of_its_project(world: World, web: WebReceiver) -> None:
    spec = WebhookSpec(url=web.url, events=[EventKind.ROLLOUT_PAUSED, EventKind.DATASET_LABELLED], project="digits")
    world.webhooks.apply("chat", spec)
    world.happens(EventKind.ROLLOUT_PAUSED, "rollouts/letters-1", "letters")
    world.happens(EventKind.ROLLOUT_FINISHED, "rollouts/digits-1", "digits")
    world.happens(EventKind.DEVICE_ENROLLED, "devices/pi-1")
    world.happens(EventKind.DATASET_LABELLED, "datasets/shared/versions/2", "digits", "letters")
    world.happens(EventKind.ROLLOUT_PAUSED, "rollouts/digits-2", "digits")
    world.webhooks.look()
    world.deliver()
    told = [json.loads(body) for body in web.bodies]
    assert [each["subject"] for each in told] == ["datasets/shared/versions/2", "rollouts/digits-2"]
    assert "project" not in told[0]


def test_a_message_is_tried_again_after_a_restart_and_given_up_in_the_end(world: World, web: WebReceiver) -> None:
    world.webhooks.apply("chat", WebhookSpec(url=web.url, give_up_after_seconds=12.0))
    web.status = 503
    world.happens(EventKind.RUN_FINISHED, "projects/digits/runs/1")
    world.webhooks.look()
    world.deliver()
    world.restarted()
    for _ in range(3):
        world.now += timedelta(seconds=10)
        world.deliver()
    assert len(web.bodies) == 2 and web.bodies[0] == web.bodies[1]
    assert web.headers[0]["Milonga-Delivery"] == web.headers[1]["Milonga-Delivery"]
    (lost,), _ = world.webhooks.deliveries("chat", DeliveryState.GIVEN_UP)
    assert (lost.attempts, lost.subject) == (2, "projects/digits/runs/1") and "HTTP 503" in lost.error
    assert world.webhooks.waiting_count() == 0


def test_what_was_given_up_is_sent_again_under_its_id_when_somebody_asks(world: World, web: WebReceiver) -> None:
    world.webhooks.apply("chat", WebhookSpec(url=web.url, give_up_after_seconds=0.0))
    web.status = 503
    for number in (1, 2):
        world.happens(EventKind.RUN_FINISHED, f"projects/digits/runs/{number}")
    world.webhooks.look()
    world.deliver()
    world.deliver()
    (second, first), _ = world.webhooks.deliveries("chat", DeliveryState.GIVEN_UP)
    sent = len(web.bodies)
    assert [one.id for one in world.webhooks.redeliver("chat", second.id)] == [second.id]
    world.deliver()
    assert len(web.bodies) == sent + 1, "only that one, and only once"
    assert len(world.webhooks.deliveries("chat", DeliveryState.GIVEN_UP)[0]) == 2
    web.status = 204
    assert [one.id for one in world.webhooks.redeliver("chat")] == [first.id, second.id]
    world.deliver()
    assert [headers["Milonga-Delivery"] for headers in web.headers[-2:]] == [first.id, second.id]
    assert web.bodies[-1] == web.bodies[sent]
    with pytest.raises(NotFound, match="no message to chat was given up"):
        world.webhooks.redeliver("chat")


def test_a_webhook_that_is_deleted_hears_nothing_more_and_one_made_anew_nothing_of_before(
    world: World, web: WebReceiver
) -> None:
    world.webhooks.apply("chat", WebhookSpec(url=web.url))
    world.happens(EventKind.RUN_FINISHED, "projects/digits/runs/1")
    world.webhooks.look()
    world.webhooks.delete("chat")
    world.deliver()
    assert web.bodies == [] and "deleted" in world.webhooks.deliveries()[0][0].error
    world.now += timedelta(seconds=1)
    world.webhooks.apply("chat", WebhookSpec(url=web.url))
    assert world.webhooks.look() == 0
    with pytest.raises(NotFound, match="milonga webhooks ls"):
        world.webhooks.delete("pager")


def test_a_secret_is_made_told_once_and_never_sent_to_another_address(world: World, web: WebReceiver) -> None:
    webhook, secret = world.webhooks.apply("chat", WebhookSpec(url=web.url))
    assert len(secret) >= 40 and webhook.secret == secret
    assert world.webhooks.apply("chat", WebhookSpec(url=web.url, events=[EventKind.RUN_FINISHED]))[1] == ""
    assert world.webhooks.get("chat").secret == secret
    _, other = world.webhooks.apply("chat", WebhookSpec(url="https://elsewhere.example/"))
    assert other and other != secret
    assert world.webhooks.apply("chat", WebhookSpec(url=web.url, secret="my own"))[0].secret == "my own"


def test_a_test_event_says_what_came_of_it(world: World, web: WebReceiver) -> None:
    world.webhooks.apply("chat", WebhookSpec(url=web.url))
    assert world.webhooks.test("chat") == "HTTP 200"
    web.status = 500
    with pytest.raises(ChannelFailed, match="answered HTTP 500 out of order"):
        world.webhooks.test("chat")
    web.content_type = "text/html"
    with pytest.raises(ChannelFailed, match=r"answered HTTP 500 Internal Server Error$"):
        world.webhooks.test("chat")


def test_what_cannot_be_a_webhook_is_refused(world: World) -> None:
    for url in ("ftp://host/", "host/path", "https://"):
        with pytest.raises(ValidationError, match="not the address of a webhook"):
            WebhookSpec(url=url)
    with pytest.raises(ValidationError):
        WebhookSpec(url="https://host/", events=["rollout.began"])
    with pytest.raises(InvalidInput, match="not a name"):
        world.webhooks.apply("My Chat", WebhookSpec(url="https://host/"))


def test_the_receiver_of_the_documentation_believes_the_hub_and_nobody_else(
    world: World, web: WebReceiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = re.search(r"```python\n(import hashlib.*?)```", DOCUMENTATION.read_text("utf-8"), re.DOTALL)
    assert code is not None and len([line for line in code[1].splitlines() if line.strip()]) <= 30
    monkeypatch.setenv("WEBHOOK_SECRET", "shared")
    receiver: dict[str, Any] = {"__name__": "receiver"}
    exec(code[1], receiver)
    monkeypatch.setattr(receiver["Receiver"], "log_message", lambda *_: None)
    # It compares with the time of its own machine.
    monkeypatch.setattr(receiver["time"], "time", lambda: world.now.timestamp())
    with HTTPServer(("127.0.0.1", 0), receiver["Receiver"]) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        world.webhooks.apply("chat", WebhookSpec(url=url, secret="shared"))
        world.happens(EventKind.RUN_FINISHED, "projects/digits/runs/1", "digits")
        world.webhooks.look()
        world.deliver()
        (delivered,), _ = world.webhooks.deliveries()
        assert delivered.state is DeliveryState.DELIVERED
        assert "milonga.run.finished projects/digits/runs/1" in capsys.readouterr().out
        world.webhooks.apply("stranger", WebhookSpec(url=url, secret="guessed"))
        with pytest.raises(ChannelFailed, match="HTTP 401"):
            world.webhooks.test("stranger")
        server.shutdown()
