"""Agents are upgraded from the page of all devices, and what becomes of that is seen on pages and over REST."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from milonga_hub.devices.models import File
from milonga_hub.devices.values import AgentRelease
from milonga_hub.rollouts.models import RolloutState

from tests.web.filled import Services
from tests.web.test_pages import Page

VERSION = "0.2.0+8"
RELEASE = AgentRelease(File(path="manifest.json", digest="sha256:agent", size_bytes=1), (), 8, VERSION)
TICKED = {"verb": "upgrade", "device": ["pi5-1", "orin-1"], "batch": "1"}


@pytest.fixture
def upgrading(hub: Services, client: TestClient) -> TestClient:
    """Return a client of a hub whose agents are on their way; one test after the other sees the same rollout."""
    hub.devices.offer_release(lambda: RELEASE)
    if not [each for each in hub.rollouts.list()[0] if each.agent_version]:
        assert client.post("/devices", data=TICKED, follow_redirects=False).headers["location"] == "/rollouts/agents.1"
    return client


def test_those_that_are_ticked_become_a_rollout_of_so_many_at_a_time(upgrading: TestClient, hub: Services) -> None:
    rollout = hub.rollouts.get("agents.1")
    assert [each.device for each in rollout.devices] == ["orin-1", "pi5-1"]
    assert (rollout.spec.max_concurrent, rollout.selector) == (1, "name in (pi5-1, orin-1)")
    entries = [(each.operation, each.resource) for each in hub.accounts.audit.page("ana")[0]]
    assert ("POST /devices", "/devices") in entries


@pytest.mark.parametrize("path", ["/rollouts/agents.1", "/rollouts", "/", "/devices", "/devices/pi5-1"])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_its_pages_are_whole_and_say_what_is_brought(upgrading: TestClient, path: str, language: str) -> None:
    answer = upgrading.get(path, headers={"accept-language": language})
    assert answer.status_code == 200
    page = Page(answer.text)
    if path == "/devices":
        assert "batch" in [each.get("name") for each in page.all("input")]
    elif path.startswith("/rollouts") or path == "/":
        assert f"agent {VERSION}" in answer.text or f"에이전트 {VERSION}" in answer.text
        assert "/models/" not in "".join(each.get("href") or "" for each in page.all("a") if "agents" in str(each))


def test_a_devices_page_and_rest_tell_what_became_of_its_upgrade(upgrading: TestClient, hub: Services) -> None:
    hub.devices.upgrade("pi5-2")
    text = upgrading.get("/devices/pi5-2").text
    assert f"to {VERSION}, wanted" in text
    assert f"Upgrade to {VERSION}" in upgrading.get("/devices").text
    told = upgrading.get("/api/v1/devices/pi5-2").json()["agent_upgrade"]
    assert (told["agent_version"], told["state"] in ("WAITING", "TOLD")) == (VERSION, True)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"verb": "upgrade"}, "no device is chosen"),
        ({**TICKED, "batch": "many"}, "is no number of devices"),
        (TICKED, "agents.1 upgrades agents and is running"),
    ],
)
def test_what_cannot_be_begun_says_why(upgrading: TestClient, form: dict[str, object], words: str) -> None:
    answer = upgrading.post("/devices", data=form)
    assert (answer.status_code, words in answer.text) == (400, True)


def test_rest_begins_one_and_its_page_ends_it(upgrading: TestClient, hub: Services) -> None:
    assert "/rollouts/agents.1/roll_back" not in upgrading.get("/rollouts/agents.1").text
    upgrading.post("/rollouts/agents.1/abort")
    assert hub.rollouts.get("agents.1").state is RolloutState.ABORTED
    spec = {"waves": [1.0], "soak_seconds": 0.0, "max_concurrent": 2}
    made = upgrading.post("/api/v1/agent_upgrades", json={"selector": "type=raspberry-pi-5", "spec": spec})
    assert made.status_code == 201
    assert (made.json()["id"], made.json()["agent_version"], made.json()["project"]) == ("agents.2", VERSION, "")
    hub.rollouts.abort("agents.2")
