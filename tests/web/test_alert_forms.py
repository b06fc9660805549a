"""Rules of alerts and channels, made, changed, tried and removed on pages: as files do it, without a file."""

from __future__ import annotations

import re
from html import unescape

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.alerts.builtin import BUILT_IN
from milonga_hub.alerts.models import (
    CHANNEL_FILE,
    RULE_FILE,
    AlertRuleSpec,
    AlertSeverity,
    AlertSignal,
    MailSecurity,
)
from milonga_hub.alerts.rules_forms import EMAIL, WEBHOOK, channel_answers, channel_of, rule_answers, rule_of

from tests.alerts.receivers import web_receiver
from tests.web.filled import Services
from tests.web.test_pages import Page

RULE = {
    "name": "hot", "watch": "TEMPERATURE", "threshold": "72.5", "for_seconds": "60", "over_seconds": "300",
    "selector": "site=busan", "project": "", "severity": "CRITICAL", "enabled": "true",
}  # fmt: skip
MAIL = {
    "kind": "email", "name": "mail", "host": "smtp.example.com", "port": "465", "security": "TLS", "username": "hub",
    "password": "of the hub", "sender": "hub@example.com", "to": "ana@example.com\nbo@example.com", "give_up_after_seconds": "600",
}  # fmt: skip
_SECONDS = st.floats(0, 31 * 86_400, allow_nan=False)


def _rule(hub: Services, name: str) -> AlertRuleSpec:
    return next(one.spec for one in hub.alerts.definitions.rules() if one.name == name)


def _file(text: str) -> str:
    """Return what a page says that the answers become."""
    found = re.search(r'<code id="yaml">(.*?)</code>', text, re.DOTALL)
    assert found is not None
    return unescape(found[1])


def _wrong(text: str) -> dict[str, str]:
    """Return what a page says is wrong, by field."""
    return {name: unescape(words) for name, words in re.findall(r'id="wrong-(\w+)" aria-live="polite">([^<]+)', text)}


@given(
    spec=st.builds(
        AlertRuleSpec,
        watch=st.sampled_from(AlertSignal),
        threshold=st.none() | st.floats(0, 1e9, allow_nan=False),
        for_seconds=_SECONDS,
        over_seconds=st.floats(1, 86_400),
        selector=st.sampled_from(["", "site=busan, !canary"]),
        severity=st.sampled_from(AlertSeverity),
        channels=st.lists(st.sampled_from(["a", "b"]), unique=True),
        enabled=st.booleans(),
    )
)
def test_a_form_that_is_shown_and_sent_back_changes_no_rule(spec: AlertRuleSpec) -> None:
    assert rule_of(rule_answers(spec), spec.channels) == (spec, {})


def test_a_form_that_is_shown_and_sent_back_changes_no_channel() -> None:
    mail, _ = channel_of(EMAIL, MAIL)
    assert mail is not None and mail.email is not None
    assert (mail.email.to, mail.email.security) == (["ana@example.com", "bo@example.com"], MailSecurity.TLS)
    assert channel_of(EMAIL, channel_answers(mail) | {"password": "of the hub"}) == (mail, {})
    hook, _ = channel_of(WEBHOOK, {"url": "https://host/path", "secret": "s", "give_up_after_seconds": "1"})
    assert hook is not None
    assert channel_of(WEBHOOK, channel_answers(hook) | {"secret": "s"}) == (hook, {})


def test_a_rule_is_made_changed_and_deleted_on_pages(client: TestClient, hub: Services) -> None:
    looked = client.post("/alert_rules", data=RULE | {"check": "1"})
    name, spec = RULE_FILE.parse(_file(looked.text), "page")
    assert (name, spec.threshold, spec.severity) == ("hot", 72.5, AlertSeverity.CRITICAL)
    assert all(one.name != "hot" for one in hub.alerts.definitions.rules()), "a look changes nothing"
    before = len(hub.accounts.audit.page(page_size=1000)[0])
    assert client.post("/alert_rules", data=RULE).url.path == "/alerts"
    assert _rule(hub, "hot") == spec
    entries, _ = hub.accounts.audit.page(page_size=1000)
    # The form's address does not say which rule it is.
    assert (len(entries) - before, entries[0].operation, entries[0].resource) == (
        1,
        "POST /alert_rules",
        "/alert_rules/hot",
    )
    again = client.post("/alert_rules", data=RULE)
    assert again.status_code == 400 and "already" in _wrong(again.text)["name"]
    form = client.get("/alert_rules/hot")
    Page(form.text)
    assert 'value="72.5"' in form.text and 'href="/alert_rules/hot"' in client.get("/alerts").text
    changed = {**RULE, "changed": "hot", "threshold": "", "enabled": ""}
    client.post("/alert_rules", data=changed)
    assert (_rule(hub, "hot").threshold, _rule(hub, "hot").enabled) == (None, False)
    client.post("/alert_rules/hot/delete")
    assert client.get("/alert_rules/hot").status_code == 404


def test_a_rule_of_the_hub_gives_way_to_what_is_saved_and_comes_back(client: TestClient, hub: Services) -> None:
    answers = rule_answers(BUILT_IN["drift"]) | {"changed": "drift", "severity": "CRITICAL"}
    assert "comes with the hub" in client.get("/alert_rules/drift").text
    client.post("/alert_rules", data=answers)
    assert _rule(hub, "drift").severity is AlertSeverity.CRITICAL
    client.post("/alert_rules/drift/delete")
    assert _rule(hub, "drift") == BUILT_IN["drift"]


@pytest.mark.parametrize(
    ("answers", "field", "said"),
    [
        ({"name": ""}, "name", "Give it a name"),
        ({"name": "Not a name"}, "name", "is not a name"),
        ({"threshold": "hot"}, "threshold", "Write a number"),
        ({"threshold": "-1"}, "threshold", "Write a number"),
        ({"threshold": "inf"}, "threshold", "Write a number"),
        ({"for_seconds": "1e99"}, "for_seconds", "31 days"),
        ({"over_seconds": "0"}, "over_seconds", "above 0"),
        ({"watch": "WEATHER"}, "watch", "Choose"),
        ({"severity": "BAD"}, "severity", "Choose"),
        ({"selector": "type in (("}, "selector", "selector"),
        ({"watch": "DRIFT"}, "threshold", "without a threshold"),
        ({"watch": "POWER", "threshold": ""}, "threshold", "in watts"),
        ({"channel": "nobody"}, "all", "there is no alert channel"),
    ],
)
def test_what_is_wrong_with_a_rule_stands_beside_its_field(
    client: TestClient, hub: Services, answers: dict[str, str], field: str, said: str
) -> None:
    answer = client.post("/alert_rules", data=RULE | answers)
    assert answer.status_code == 400 and said in _wrong(answer.text)[field], _wrong(answer.text)
    assert all(one.name != "hot" for one in hub.alerts.definitions.rules())


def test_a_webhook_gets_a_secret_that_is_shown_once_and_a_test(client: TestClient, hub: Services) -> None:
    with web_receiver() as receiver:
        made = client.post("/alert_channels", data={"kind": "webhook", "name": "hook", "url": receiver.url})
        secret = hub.alerts.definitions.channel("hook").spec.webhook
        assert secret is not None and f'<code id="new-secret">{secret.secret}</code>' in made.text
        assert secret.secret not in client.get("/alert_channels/hook").text + client.get("/alerts").text
        assert "arrived" in client.post("/alert_channels/hook/test").text and len(receiver.bodies) == 1
        receiver.status = 500
        failed = client.post("/alert_channels/hook/test")
        assert failed.status_code == 400 and "500" in failed.text
    # A secret is for the address that it was given for.
    moved = client.post("/alert_channels", data={"kind": "webhook", "changed": "hook", "url": "https://elsewhere/x"})
    assert moved.status_code == 400 and "again" in _wrong(moved.text)["secret"]
    client.post("/alert_rules", data=RULE | {"channel": "hook"})
    assert "cannot be deleted: hot" in client.get("/alert_channels/hook").text
    assert client.post("/alert_channels/hook/delete").status_code == 409
    client.post("/alert_rules/hot/delete")
    assert client.post("/alert_channels/hook/delete").status_code == 200
    assert hub.alerts.definitions.channels() == []


def test_an_e_mail_channel_is_made_and_keeps_its_password(client: TestClient, hub: Services) -> None:
    looked = client.post("/alert_channels", data=MAIL | {"check": "1"})
    assert "of the hub" not in looked.text
    _, spec = CHANNEL_FILE.parse(_file(looked.text), "page")
    client.post("/alert_channels", data=MAIL)
    client.post(
        "/alert_channels", data=MAIL | {"changed": "mail", "password": "", "port": "465", "to": "ana@example.com"}
    )
    kept = hub.alerts.definitions.channel("mail").spec
    assert kept.email is not None and spec.email is not None
    assert (kept.email.password, kept.email.to, kept.email.host) == ("of the hub", ["ana@example.com"], spec.email.host)
    for answers, field in (
        ({"host": ""}, "host"), ({"port": "70000"}, "port"), ({"port": "x"}, "port"), ({"sender": ""}, "sender"),
        ({"to": "nobody"}, "to"), ({"to": ""}, "to"), ({"security": "MAYBE"}, "security"), ({"give_up_after_seconds": "-1"}, "give_up_after_seconds"),
        ({"host": "elsewhere", "password": ""}, "password"),
    ):  # fmt: skip
        wrong = client.post("/alert_channels", data=MAIL | {"changed": "mail"} | answers)
        assert wrong.status_code == 400 and field in _wrong(wrong.text), (answers, _wrong(wrong.text))
    assert hub.alerts.definitions.channel("mail").spec == kept
    client.post("/alert_channels/mail/delete")
    assert client.post("/alert_channels/mail/test").status_code == 404
