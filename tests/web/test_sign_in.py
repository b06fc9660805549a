"""Signing in and out in a browser, who may see and change what there, and what the audit log shows of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from milonga_hub.accounts.rules_access import HTTP
from milonga_hub.accounts.rules_scopes import AREAS
from milonga_hub.callers import Caller, CallerKind, Role
from milonga_hub.transports.http import create_app, serve
from milonga_hub.web.cookies import cookie_name
from milonga_hub.web.pages import settings
from milonga_hub.web.pages.sign_in import own_page

from tests.web.filled import HOSTILE, Services
from tests.web.people import ADDRESS, PASSWORD, cookie_of, signed_in, stranger

LOCAL = Caller("local", CallerKind.LOCAL, Role.ADMIN)


@pytest.fixture
def hub(tmp_path: Path) -> Services:
    return Services(tmp_path)


@pytest.fixture
def browser(hub: Services) -> Iterator[TestClient]:
    """Return a browser of nobody yet; ana has an account."""
    hub.accounts.create("ana", Role.ADMIN, PASSWORD)
    with stranger(hub) as client:
        yield client


def _sign_in(browser: TestClient, name: str = "ana", password: str = PASSWORD, next: str = "/") -> httpx.Response:
    answer: httpx.Response = browser.post("/sign-in", data={"name": name, "password": password, "next": next})
    return answer


def test_who_is_not_signed_in_signs_in_and_comes_back_to_the_page(browser: TestClient) -> None:
    sent = browser.get("/devices?selector=site%3Dbusan")
    assert sent.status_code == 303 and sent.headers["location"].startswith("/sign-in?next=")
    (page,) = parse_qs(urlsplit(sent.headers["location"]).query)["next"]
    form = browser.get(sent.headers["location"])
    assert form.status_code == 200 and f'name="next" value="{page}"' in form.text and "<nav" not in form.text
    assert _sign_in(browser, next=page).headers["location"] == "/devices?selector=site%3Dbusan"
    shown = browser.get("/devices")
    assert shown.status_code == 200 and "Sign out" in shown.text and ">ana<" in shown.text
    assert browser.post("/sign-out").headers["location"] == "/sign-in"
    assert browser.get("/devices").status_code == 303


def test_a_form_that_is_sent_after_the_session_has_ended_leads_back_to_its_page(browser: TestClient) -> None:
    sent = browser.post("/rollouts/digits-1/pause", headers={"Referer": f"{ADDRESS}/rollouts/digits-1"})
    assert sent.headers["location"] == "/sign-in?next=%2Frollouts%2Fdigits-1"
    away = browser.post("/rollouts/digits-1/pause", headers={"Referer": "http://evil.example/x"})
    assert away.headers["location"] == "/sign-in?next=%2F"


@pytest.mark.parametrize(
    "address",
    ["//evil.example", "http://evil.example", "/\\evil.example", "javascript:alert(1)", "", "evil", "/a\\b", "/\n/x"],
)
def test_signing_in_leads_nowhere_else(browser: TestClient, address: str) -> None:
    assert own_page(address) == "/"
    assert _sign_in(browser, next=address).headers["location"] == "/"


def test_the_cookie_is_seen_by_no_script_and_sent_by_no_other_site(hub: Services, browser: TestClient) -> None:
    cookie = _sign_in(browser).headers["set-cookie"]
    assert cookie.startswith(f"{cookie_name(hub.accounts.fingerprint, is_secure=False)}=")
    for part in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=604800"):
        assert part in cookie
    assert "Secure" not in cookie, "a browser would not keep it without TLS"
    over_tls = TestClient(
        create_app(hub), base_url="https://127.0.0.1", headers={"Origin": "https://127.0.0.1"}, follow_redirects=False
    )
    cookie = _sign_in(over_tls).headers["set-cookie"]
    assert cookie.startswith("__Host-milonga-") and "Secure" in cookie
    assert over_tls.get("/devices").status_code == 200


def test_a_wrong_password_is_said_and_guessing_is_slowed_down(hub: Services, browser: TestClient) -> None:
    wrong = _sign_in(browser, password="a wrong password")
    assert wrong.status_code == 401 and "do not belong together" in wrong.text
    assert 'value="ana"' in wrong.text and "a wrong password" not in wrong.text
    for _ in range(4):
        _sign_in(browser, password="a wrong password")
    waiting = _sign_in(browser)
    assert waiting.status_code == 429 and "try again in" in waiting.text
    entries, _ = hub.accounts.audit.page()
    assert {(entry.caller, entry.kind, entry.outcome[:15]) for entry in entries} == {("ana", None, "UNAUTHENTICATED")}
    assert len(entries) == 5, "who has to wait fills no disk"


def test_other_sites_can_neither_sign_in_nor_use_a_session(hub: Services, browser: TestClient) -> None:
    evil = {"Origin": "http://evil.example"}
    login = browser.post("/sign-in", data={"name": "ana", "password": PASSWORD}, headers=evil)
    assert login.status_code == 403 and "set-cookie" not in login.headers
    _sign_in(browser)
    assert browser.post("/settings/sessions/end", headers=evil).status_code == 403
    with TestClient(create_app(hub), base_url=ADDRESS, cookies=cookie_of(hub)) as silent:
        refused = silent.post("/settings/sessions/end")
        assert refused.status_code == 403 and "does not say which page" in refused.text
        assert silent.get("/devices").status_code == 200


def test_the_first_account_is_made_by_the_link_of_the_terminal_and_never_again(hub: Services) -> None:
    browser = stranger(hub)
    assert "milonga users add" in browser.get("/sign-in").text
    assert browser.get("/setup?code=guess").status_code == 403
    link = hub.accounts.set_up_path
    code = link.partition("=")[2]
    assert "The first account" in browser.get(link).text
    short = browser.post("/setup", data={"code": code, "name": "ana", "password": "short"})
    assert short.status_code == 400 and "12 characters" in short.text
    made = browser.post("/setup", data={"code": code, "name": "ana", "password": PASSWORD})
    assert (made.status_code, made.headers["location"]) == (303, "/")
    assert browser.get("/settings/users").status_code == 200
    eve = stranger(hub)
    assert eve.get(link).status_code == 403
    assert eve.post("/setup", data={"code": code, "name": "eve", "password": PASSWORD}).status_code == 403
    assert [entry.caller for entry in hub.accounts.audit.page()[0]] == ["ana"]


def _example(path: str) -> str:
    return re.sub(r"\{\w+(:path)?\}", "1", path)


def test_strangers_get_nothing_but_what_is_open(browser: TestClient) -> None:
    for operation, access in HTTP.items():
        method, path = operation.split(" ")
        answer = browser.request(method, _example(path), headers={"Accept": "*/*"})
        if access.least is not None:
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", operation
        else:
            assert "www-authenticate" not in answer.headers, operation
    for path in ("/nowhere", "/api/v1/nowhere", "/devices/", "/static/../devices"):
        assert browser.get(path).status_code in (303, 401), path


def test_what_no_rule_knows_shows_nothing_and_takes_changes_from_admins_alone(hub: Services) -> None:
    operator, admin = (signed_in(hub, role.lower(), role) for role in (Role.OPERATOR, Role.ADMIN))
    assert [operator.get("/nowhere").status_code, operator.post("/nowhere").status_code] == [404, 403]
    assert admin.post("/nowhere").status_code == 404
    entries, _ = hub.accounts.audit.page()
    assert [(entry.caller, entry.operation) for entry in entries] == [("admin", "POST ?"), ("operator", "POST ?")]


@pytest.mark.parametrize("host", ["127.0.0.1/healthz?", "x@127.0.0.1/static/", "["])
def test_a_host_that_is_none_opens_no_door(hub: Services, host: str) -> None:
    # What is asked for is the path of the request line, whatever a header makes of it.
    for listening in ("127.0.0.1", "0.0.0.0"):
        hub.settings = hub.settings.model_copy(update={"host": listening})
        answer = stranger(hub).get("/api/v1/devices", headers={"Host": host, "Accept": "*/*"})
        assert answer.status_code in (401, 403), (listening, answer.text)


def test_a_proxy_on_the_hubs_machine_asks_by_a_name_that_was_given(hub: Services) -> None:
    origin = {"Host": "hub.example", "Origin": "https://hub.example"}
    assert stranger(hub).get("/sign-in", headers=origin).status_code == 403
    hub.settings = hub.settings.model_copy(update={"server_names": ["Hub.example"]})
    assert stranger(hub).get("/sign-in", headers=origin).status_code == 200
    assert stranger(hub).post("/sign-in", headers=origin, data={"name": "x", "password": "y"}).status_code == 401
    assert stranger(hub).get("/sign-in", headers={"Host": "evil.example"}).status_code == 403


def test_strangers_send_no_more_than_a_name_and_a_password(browser: TestClient) -> None:
    for content in (b"x" * 20_000, iter([b"name=ana"])):
        refused = browser.post("/sign-in", content=content)
        assert refused.status_code == 400 and "at most 16384 bytes" in refused.text


def test_a_viewer_changes_nothing_but_what_is_its_own(hub: Services) -> None:
    viewer = signed_in(hub, "ben", Role.VIEWER)
    for operation, access in HTTP.items():
        method, path = operation.split(" ")
        if access.least in (Role.OPERATOR, Role.ADMIN):
            assert viewer.request(method, _example(path)).status_code == 403, operation
    refused = viewer.get("/settings/users")
    assert "ben is viewer, and this needs admin" in refused.text
    assert 'class="viewer"' in viewer.get("/").text
    entries, _ = hub.accounts.audit.page(page_size=1000)
    assert {entry.caller for entry in entries} == {"ben"}
    assert all("PERMISSION_DENIED" in entry.outcome for entry in entries)
    assert len(entries) == sum(each.changes and each.least in (Role.OPERATOR, Role.ADMIN) for each in HTTP.values())


def test_programs_send_a_key_and_prometheus_needs_no_more_than_a_viewers(hub: Services) -> None:
    key, secret = hub.accounts.api_keys.create(LOCAL, "prometheus", Role.VIEWER)
    program = TestClient(create_app(hub), base_url=ADDRESS)
    assert program.get("/metrics").status_code == 401
    for wrong in ("Bearer mkey_x", "Basic YTpi", secret):
        answer = program.get("/api/v1/devices", headers={"Authorization": wrong})
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHENTICATED")
    program.headers["Authorization"] = f"Bearer {secret}"
    assert "milonga_devices" in program.get("/metrics").text
    me = program.get("/api/v1/me").json()
    limits: dict[str, list[str]] = {"scopes": [], "projects": []}
    assert me == {
        "name": "key prometheus",
        "kind": "API_KEY",
        "role": "VIEWER",
        "key_id": key.id,
        "account": "",
        **limits,
    }
    assert program.post("/api/v1/join_tokens", json={}).status_code == 403


def test_users_and_keys_are_kept_on_the_pages_of_settings(hub: Services) -> None:
    ana = signed_in(hub)
    made = ana.post("/settings/users", data={"name": "kim", "role": "OPERATOR", "password": PASSWORD})
    assert ">kim<" in made.text.replace(" ", "").replace("\n", "") or "kim" in made.text
    assert "already" in ana.post("/settings/users", data={"name": "kim", "role": "VIEWER", "password": PASSWORD}).text
    ana.post("/settings/users/kim/role", data={"role": "VIEWER"})
    assert [(each.name, each.role) for each in hub.accounts.list()[0]] == [("ana", Role.ADMIN), ("kim", Role.VIEWER)]
    kim = signed_in(hub, "kim")
    ana.post("/settings/users/kim/password", data={"password": "four painted doors"})
    assert kim.get("/settings", headers={"Accept": "*/*"}).status_code == 401
    hub.accounts.sign_in("kim", "four painted doors", "")
    shown = ana.post("/settings/api_keys", data={"label": HOSTILE, "role": "OPERATOR", "days": "30"}).text
    secret = re.search(r'<code id="new-key">(mkey_[^<]+)</code>', shown)
    assert secret is not None and HOSTILE not in shown
    assert hub.accounts.caller_of_key(secret[1]).role is Role.OPERATOR
    (key,) = hub.accounts.api_keys.page(LOCAL)[0]
    limits = {"scope": ["rollouts:write", "runs:read"], "project": ["digits"]}
    shown = ana.post("/settings/api_keys", data={"label": "ci", "role": "ADMIN", "days": "30", **limits}).text
    limited, _ = hub.accounts.api_keys.page(LOCAL, page_size=1000)
    (ci,) = [each for each in limited if each.label == "ci"]
    assert (ci.scopes, ci.projects, ci.role) == (limits["scope"], limits["project"], Role.OPERATOR)
    assert "<code>rollouts:write</code>" in shown and set(settings.AREAS) == set(AREAS)
    hub.accounts.api_keys.delete(LOCAL, ci.id)
    again = ana.get("/settings").text
    assert secret[1] not in again and key.id in again
    ana.post(f"/settings/api_keys/{key.id}/delete")
    assert hub.accounts.api_keys.page(LOCAL)[0] == []
    assert "only admin" in ana.post("/settings/users/ana/delete").text
    ana.post("/settings/users/kim/delete")
    old = {"old_password": PASSWORD, "password": "two open windows"}
    assert "do not belong" in ana.post("/settings/password", data={**old, "old_password": "wrong"}).text
    assert "Sign in" in ana.post("/settings/password", data=old).text
    hub.accounts.sign_in("ana", "two open windows", "")


def test_people_and_keys_are_kept_over_rest(hub: Services) -> None:
    ana = signed_in(hub)
    new = {"name": "kim", "role": "OPERATOR", "password": PASSWORD}
    made = ana.post("/api/v1/accounts", json=new)
    assert made.status_code == 201 and "password" not in made.text
    assert ana.post("/api/v1/accounts/kim:set_role", json={"role": "VIEWER"}).json()["role"] == "VIEWER"
    assert "password_hash" not in ana.get("/api/v1/accounts").text
    kim = signed_in(hub, "kim")
    assert kim.post("/api/v1/accounts/ana:end_sessions").status_code == 403
    own = {"old_password": PASSWORD, "password": "four painted doors"}
    assert kim.post("/api/v1/accounts/kim:set_password", json=own).status_code == 200
    assert ana.post("/api/v1/accounts/kim:end_sessions").json() == {"ended": 0}
    key = ana.post("/api/v1/api_keys", json={"label": "script", "role": "VIEWER"}).json()
    assert "secret_hash" not in ana.get("/api/v1/api_keys").text and key["secret"].startswith("mkey_")
    assert ana.delete(f"/api/v1/api_keys/{key['api_key']['id']}").status_code == 204
    assert ana.delete("/api/v1/accounts/kim").status_code == 204
    entries = ana.get("/api/v1/audit_entries", params={"caller": "ana"}).json()["audit_entries"]
    assert [(entry["operation"], entry["resource"]) for entry in entries[:2]] == [
        ("DELETE /api/v1/accounts/{name}", "/api/v1/accounts/kim"),
        ("DELETE /api/v1/api_keys/{id}", f"/api/v1/api_keys/{key['api_key']['id']}"),
    ]
    assert not {PASSWORD, "four painted doors", key["secret"]} & set(str(entries).split("'"))


def test_the_audit_page_shows_who_did_what_and_hostile_names_harmlessly(hub: Services, browser: TestClient) -> None:
    _sign_in(browser, name=HOSTILE, password="x")
    _sign_in(browser)
    browser.post("/new/devices", data={"uses": "1"})
    browser.post("/rollouts/nothing/pause")
    page = browser.get("/settings/audit").text
    assert HOSTILE not in page and "did not get in" in page
    assert "POST /new/devices" in page and "NOT_FOUND" in page and "testclient" in page
    only = browser.get("/settings/audit", params={"caller": "ana"}).text
    assert "POST /new/devices" in only and "did not get in" not in only


def test_a_look_at_what_would_change_is_no_change(hub: Services) -> None:
    ana = signed_in(hub)
    ana.post("/new/projects", data={"name": "mine", "check": "1"})
    ana.post("/api/v1/alert_rules/mine:apply", json={"spec": {"watch": "DEVICE_OFFLINE"}, "dry_run": True})
    assert hub.accounts.audit.page()[0] == []


def test_a_stream_of_events_ends_when_its_listener_is_signed_out(
    hub: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milonga_hub.web.gate._VALID_SECONDS", 0.0)

    async def scenario() -> list[str]:
        cookies = cookie_of(hub)
        server, port = await serve(create_app(hub), "127.0.0.1", 0)
        try:
            async with httpx.AsyncClient(base_url=f"{ADDRESS}:{port}", cookies=cookies, timeout=60) as client:
                async with client.stream("GET", "/api/v1/events?topics=devices/") as stream:
                    lines = stream.aiter_lines()
                    assert await anext(lines) == "retry: 2000"
                    hub.accounts.end_sessions(LOCAL, "ana")
                    hub.devices.create_join_token({})
                    hub.events.publish("devices/pi-1", None)
                    return [line async for line in lines if line.startswith("data")]
        finally:
            await server.stop()

    assert asyncio.run(scenario()) == []
