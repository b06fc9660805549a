"""Alerts over a real database, told to real servers."""

from __future__ import annotations

import asyncio
import email
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.alerts.models import (
    CHANNEL_FILE,
    RULE_FILE,
    Alert,
    AlertChannelSpec,
    AlertRuleSpec,
    AlertSignal,
    AlertState,
    EmailSpec,
    MailSecurity,
    WebhookSpec,
)
from milonga_hub.alerts.rules_findings import DeviceFacts, Facts, RolloutFacts
from milonga_hub.alerts.service import AlertService
from milonga_hub.db import Database
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.outbox import DeliveryState
from milonga_hub.posting import ChannelFailed

from tests.alerts.receivers import MailReceiver, WebReceiver, mail_receiver, web_receiver
from tests.databases import database_url
from tests.telemetry.windows import START

EXAMPLES = Path(__file__).parent.parent.parent / "fleet_configs" / "alerts"
SECRET = "a secret of the receiver's"


class World:
    """Alerts of a fleet that is what the test says, with a clock that stands still until it is moved."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.offline: set[str] = set()
        self.hot: set[str] = set()
        self.rollouts: list[RolloutFacts] = []
        self.known_projects = ["digits", "letters"]
        self.database = Database(database_url(folder / "test.db"))
        self.database.create_tables()
        self.alerts = self.restarted()

    def restarted(self) -> AlertService:
        self.alerts = AlertService(self.database, EventBus(), self, lambda: self.now)
        return self.alerts

    def facts(self, since: datetime) -> Facts:
        return Facts(
            devices=[
                DeviceFacts(
                    name, {}, name not in self.offline, None, temperature_celsius=95.0 if name in self.hot else 40.0
                )
                for name in ("a", "b", "c")
            ],
            rollouts=self.rollouts,
        )

    def projects(self) -> list[str]:
        return self.known_projects

    def look(self, seconds: float = 0.0) -> list[Alert]:
        self.now += timedelta(seconds=seconds)
        return self.alerts.look()

    def standing(self) -> list[str]:
        return sorted(f"{one.rule} {one.subject}" for one in self.alerts.list(AlertState.OPEN)[0])

    def deliver(self) -> None:
        asyncio.run(self.alerts.deliveries.deliver())

    def tell(self, receiver: WebReceiver, **values: Any) -> None:
        spec = AlertChannelSpec(webhook=WebhookSpec(url=receiver.url, secret=SECRET), **values)
        self.alerts.definitions.apply_channel("hook", spec)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        yield receiver


@pytest.fixture
def mail() -> Iterator[MailReceiver]:
    with mail_receiver() as receiver:
        yield receiver


def test_an_alert_opens_once_stands_and_resolves_by_itself(world: World) -> None:
    world.hot = {"a"}
    (opened,) = world.look()
    assert (opened.subject, opened.value, opened.threshold) == ("devices/a", 95.0, 80.0)
    assert world.look(60) == []
    world.hot = set()
    (resolved,) = world.look(60)
    assert (resolved.id, resolved.state) == (opened.id, AlertState.RESOLVED)
    assert resolved.resolved_at == START + timedelta(seconds=120)
    world.hot = {"a"}
    assert world.look(60)[0].id != opened.id
    assert len(world.alerts.list(subject="devices/a")[0]) == 2


def test_what_to_do_next_is_what_can_be_done_now_and_is_not_told_again(world: World, web: WebReceiver) -> None:
    world.tell(web)
    going = RolloutFacts("digits-2", "digits", "models/digits/versions/2", False, "", {"a": "boom"})
    world.rollouts = [going]
    (opened,) = world.look()
    assert opened.next_step.endswith("to let it try again: milonga rollouts retry digits-2")
    world.rollouts = [replace(going, may_retry=False)]
    assert world.look(60) == []
    assert world.alerts.get(opened.id).next_step.endswith("; the next rollout of digits closes this")
    world.deliver()
    assert len(web.bodies) == 1


def test_an_alert_waits_until_it_has_stood_long_enough(world: World) -> None:
    world.offline = {"b"}
    assert world.look() == world.look(599) == []
    (opened,) = world.look(1)
    assert opened.since == START
    world.offline = set()
    world.look()
    world.offline = {"b"}
    assert world.look(599) == []


def test_a_hub_that_was_down_does_not_take_its_fleet_for_gone(world: World) -> None:
    world.offline = {"a", "b", "c"}
    world.now += timedelta(days=1)
    world.restarted()
    assert world.look() == []
    assert world.look(599) == []


def test_an_alert_that_stands_when_the_hub_restarts_is_not_opened_again(world: World) -> None:
    world.hot = {"a"}
    world.look()
    world.restarted()
    assert world.look(60) == []
    assert world.standing() == ["temperature devices/a"]


def test_a_webhook_is_signed_says_what_to_do_and_hears_of_the_end(world: World, web: WebReceiver) -> None:
    world.tell(web)
    world.hot = {"a", "b"}
    world.look()
    world.deliver()
    (body,) = web.bodies
    event = json.loads(body)
    assert (event["specversion"], event["type"], event["source"]) == ("1.0", "milonga.alert.opened", "/")
    assert web.headers[0]["Content-Type"] == "application/cloudevents+json; charset=utf-8"
    told = event["data"]
    assert (told["event"], told["alert_count"], len(told["alerts"])) == ("opened", 2, 2)
    assert "95 °C" in told["title"] and told["alerts"][0]["next_step"]
    found = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", web.headers[0]["Milonga-Signature"])
    assert found is not None and int(found[1]) == int(START.timestamp())
    assert found[2] == hmac.new(SECRET.encode(), f"{found[1]}.".encode() + body, hashlib.sha256).hexdigest()
    world.hot = {"b"}
    world.look(60)
    world.deliver()
    ended = json.loads(web.bodies[1])["data"]
    assert (ended["event"], [one["subject"] for one in ended["alerts"]]) == ("resolved", ["devices/a"])


def test_a_message_survives_restarts_and_is_tried_again_until_it_arrives(world: World, web: WebReceiver) -> None:
    world.tell(web)
    web.status = 503
    world.hot = {"a"}
    (opened,) = world.look()
    world.deliver()
    world.deliver()  # Not due yet.
    assert len(web.bodies) == 1
    world.restarted()
    world.now += timedelta(seconds=5)
    web.status = 204
    world.deliver()
    world.now += timedelta(days=1)
    world.deliver()
    assert len(web.bodies) == 2 and web.bodies[0] == web.bodies[1]
    assert web.headers[0]["Milonga-Delivery"] == web.headers[1]["Milonga-Delivery"]
    (message,) = world.alerts.messages(opened.id)
    assert (message.state, message.attempts, message.error) == (DeliveryState.DELIVERED, 2, "")


def test_a_message_is_given_up_after_the_time_that_was_said_and_this_is_shown(world: World, web: WebReceiver) -> None:
    world.tell(web, give_up_after_seconds=12.0)
    web.status = 302
    world.hot = {"a"}
    (opened,) = world.look()
    for _ in range(4):
        world.deliver()
        world.now += timedelta(seconds=10)
    assert len(web.bodies) == 2
    (message,) = world.alerts.messages(opened.id)
    assert (message.state, message.attempts) == (DeliveryState.GIVEN_UP, 2)
    assert "HTTP 302" in message.error
    assert [one.id for one in world.alerts.deliveries.given_up()] == [message.id]


def test_who_looks_after_an_alert_is_kept_and_nothing_more_is_sent(world: World, web: WebReceiver) -> None:
    world.hot = {"a"}
    (opened,) = world.look()
    with pytest.raises(InvalidInput, match="who"):
        world.alerts.acknowledge(opened.id, " ")
    world.alerts.acknowledge(opened.id, "ana", "the fan is on its way")
    # A second click.
    assert world.alerts.acknowledge(opened.id, "ana").note == "the fan is on its way"
    world.tell(web)
    world.look(60)
    world.hot = set()
    world.look(60)
    world.deliver()
    assert web.bodies == []
    with pytest.raises(FailedPrecondition, match="resolved already"):
        world.alerts.acknowledge(opened.id, "ben")


def test_who_acknowledges_later_takes_an_alert_over_and_what_was_said_before_is_kept(world: World) -> None:
    world.hot = {"a"}
    (opened,) = world.look()
    world.alerts.acknowledge(opened.id, "ana", "the fan is on its way")
    world.now += timedelta(hours=1)
    world.alerts.acknowledge(opened.id, "ben")
    world.now += timedelta(hours=1)
    taken = world.alerts.acknowledge(opened.id, "ben", "it came, I mount it")
    assert (taken.acknowledged_by, taken.acknowledged_at) == ("ben", START + timedelta(hours=2))
    assert taken.note.splitlines() == [
        "it came, I mount it",
        f"- ben, {START + timedelta(hours=1):%Y-%m-%d %H:%M} UTC",
        f"- ana, {START:%Y-%m-%d %H:%M} UTC: the fan is on its way",
    ]
    world.now += timedelta(hours=1)
    assert world.alerts.acknowledge(opened.id, "ben", "it came, I mount it") == taken


def test_a_silence_holds_messages_back_until_it_ends(world: World, web: WebReceiver) -> None:
    world.tell(web)
    silence = world.alerts.silence("", "devices/a", START + timedelta(hours=1), "being moved", "ana")
    world.hot = {"a"}
    (opened,) = world.look(60)
    assert opened.silenced_until == silence.until
    world.deliver()
    assert web.bodies == []
    world.look(3600)
    world.deliver()
    assert [json.loads(body)["data"]["event"] for body in web.bodies] == ["opened"]
    assert world.alerts.get(opened.id).silenced_until is None


def test_a_silence_needs_an_end_ahead_and_a_reason_and_can_be_ended(world: World, web: WebReceiver) -> None:
    for until, reason in ((START, "moved"), (START + timedelta(hours=1), " ")):
        with pytest.raises(InvalidInput):
            world.alerts.silence("", "", until, reason)
    world.tell(web)
    # What names nothing would silence nothing, and nobody would notice.
    with pytest.raises(NotFound, match="no alert rule 'temprature' to silence; see: milonga alerts rules"):
        world.alerts.silence("temprature", "", START + timedelta(hours=1), "summer")
    with pytest.raises(InvalidInput, match="write it as devices/pi-3"):
        world.alerts.silence("", "pi-3", START + timedelta(hours=1), "summer")
    made = world.alerts.silence("temperature", "", START + timedelta(hours=1), "summer", request_id="once")
    assert world.alerts.silence("temperature", "", START + timedelta(hours=1), "summer", request_id="once") == made
    world.hot = {"a"}
    world.look()
    world.alerts.end_silence(made.id)
    world.deliver()
    assert len(web.bodies) == 1


def test_a_hub_that_gets_its_first_channel_tells_what_stands(world: World, web: WebReceiver) -> None:
    world.hot = {"a"}
    world.look()
    world.tell(web)
    world.look(60)
    world.deliver()
    assert len(web.bodies) == 1


def test_a_rule_of_ones_own_replaces_a_built_in_one_and_gives_way_to_it_again(world: World) -> None:
    definitions = world.alerts.definitions
    world.hot = {"a"}
    world.look()
    spec = AlertRuleSpec(watch=AlertSignal.TEMPERATURE, threshold=99.0)
    _, changes = definitions.apply_rule("temperature", spec)
    assert changes == ["spec.threshold: none -> 99.0"]
    assert definitions.apply_rule("temperature", spec)[1] == []
    world.look(60)
    assert world.standing() == []
    definitions.delete_rule("temperature")
    world.look(60)
    assert world.standing() == ["temperature devices/a"]
    with pytest.raises(FailedPrecondition, match="enabled: false"):
        definitions.delete_rule("temperature")
    with pytest.raises(FailedPrecondition, match="no alert channel 'pager'"):
        definitions.apply_rule("x", AlertRuleSpec(watch=AlertSignal.DRIFT, channels=["pager"]))


def test_a_rule_for_a_project_that_there_is_not_is_refused_with_those_that_there_are(world: World) -> None:
    definitions = world.alerts.definitions
    spec = AlertRuleSpec(watch=AlertSignal.DRIFT, project="digit")
    with pytest.raises(NotFound, match=r"spec\.project: there is no project 'digit'; there are: digits, letters"):
        definitions.apply_rule("x", spec)
    # Its file may make the project, too.
    assert definitions.apply_rule("x", spec, dry_run=True)[1] == ["new rule"]
    known = definitions.apply_rule("x", AlertRuleSpec(watch=AlertSignal.DRIFT, project="digits"))[0].spec
    world.known_projects = ["letters"]
    # One that named a project when there was one can still be changed.
    assert not definitions.apply_rule("x", known.model_copy(update={"enabled": False}))[0].spec.enabled


def test_a_secret_is_kept_never_shown_and_never_sent_elsewhere(world: World, web: WebReceiver) -> None:
    world.tell(web)
    definitions = world.alerts.definitions
    (shown,) = definitions.channels()
    assert shown.has_secret and SECRET not in shown.model_dump_json()
    without = AlertChannelSpec(webhook=WebhookSpec(url=web.url), give_up_after_seconds=60.0)
    _, changes = definitions.apply_channel("hook", without)
    assert changes == ["spec.give_up_after_seconds: 86400.0 -> 60.0"]
    assert definitions.channel("hook").spec.webhook == WebhookSpec(url=web.url, secret=SECRET)
    changed = AlertChannelSpec(webhook=WebhookSpec(url=web.url, secret="another"), give_up_after_seconds=60.0)
    assert definitions.apply_channel("hook", changed)[1] == ["the secret changed"]
    with pytest.raises(InvalidInput, match="secret must be given"):
        definitions.apply_channel("hook", AlertChannelSpec(webhook=WebhookSpec(url="https://elsewhere.example")))


def test_an_e_mail_says_what_is_wrong_and_what_to_do(world: World, mail: MailReceiver) -> None:
    spec = EmailSpec(
        host="127.0.0.1", port=mail.port, security=MailSecurity.NONE, sender="hub@x.example", to=["ana@x.example"]
    )
    world.alerts.definitions.apply_channel("mail", AlertChannelSpec(email=spec))
    assert "taken by" in world.alerts.deliveries.send_test("mail")
    world.hot = {"a"}
    (opened,) = world.look()
    world.deliver()
    read = email.message_from_string(mail.mails[1])
    assert read["To"] == "ana@x.example" and read["Subject"]
    text = read.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert opened.next_step in text.decode() and f"milonga alerts ack {opened.id}" in text.decode()
    mail.refuses = True
    with pytest.raises(ChannelFailed, match="no such person"):
        world.alerts.deliveries.send_test("mail")


def test_a_mail_server_without_starttls_gets_no_password(world: World, mail: MailReceiver) -> None:
    spec = EmailSpec(
        host="127.0.0.1", port=mail.port, username="hub", password="p", sender="hub@x.example", to=["ana@x.example"]
    )
    world.alerts.definitions.apply_channel("mail", AlertChannelSpec(email=spec))
    with pytest.raises(ChannelFailed, match="STARTTLS"):
        world.alerts.deliveries.send_test("mail")
    assert mail.mails == []


def test_a_test_message_says_why_it_did_not_arrive(world: World, web: WebReceiver) -> None:
    world.tell(web)
    assert world.alerts.deliveries.send_test("hook") == "HTTP 200"
    web.status = 500
    with pytest.raises(ChannelFailed, match="HTTP 500 out of order"):
        world.alerts.deliveries.send_test("hook")
    with pytest.raises(NotFound, match="alerts channels"):
        world.alerts.deliveries.send_test("pager")


def test_the_examples_can_be_applied(world: World) -> None:
    for path in sorted(EXAMPLES.glob("*.yaml"), reverse=True):
        if "AlertRule" in path.read_text().splitlines()[1]:
            world.alerts.definitions.apply_rule(*RULE_FILE.load(path))
        else:
            world.alerts.definitions.apply_channel(*CHANNEL_FILE.load(path))
    assert [channel.name for channel in world.alerts.definitions.channels()] == ["mail", "on-call"]


@pytest.mark.parametrize(
    "spec", ["{}", "webhook: {url: 'file:///etc/passwd', secret: x}", "email: {host: h, sender: 'a b@c', to: [x@y]}"]
)
def test_a_channel_that_cannot_be_is_refused_with_its_line(spec: str) -> None:
    with pytest.raises(InvalidInput, match=r"f\.yaml:\d"):
        CHANNEL_FILE.parse(f"kind: AlertChannel\nname: x\nspec: {{{spec}}}\n".replace("{{}}", "{}"), "f.yaml")
