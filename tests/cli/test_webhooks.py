"""What a filled hub tells webhooks of, over its real services, and the pages and verbs about them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from milonga_hub.callers import Role
from milonga_hub.datasets.rules import Labelled
from milonga_hub.db import utc_now
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.web.pages.webhooks import KINDS
from milonga_hub.webhooks.models import EventKind
from milonga_hub.webhooks.sight import Sight
from PIL import Image

from tests.alerts.receivers import WebReceiver, web_receiver
from tests.cli.conftest import Cli
from tests.web.filled import PROJECT, Services, pictures
from tests.web.people import signed_in


@pytest.fixture
def hub(cli: Cli) -> Services:
    return cli.hub


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        yield receiver


def _sight(hub: Services) -> Sight:
    return Sight(hub.runs, hub.rollouts, hub.builds, hub.devices, hub.datasets, hub.projects, hub.alerts)


def test_what_the_services_keep_is_seen_with_its_time_and_project(hub: Services) -> None:
    seen = _sight(hub).happened(utc_now() - timedelta(days=1))
    kinds = {one.kind for one in seen}
    assert kinds >= {
        EventKind.RUN_FINISHED,
        EventKind.ROLLOUT_FINISHED,
        EventKind.BUILD_VERIFIED,
        EventKind.DATASET_IMPORTED,
        EventKind.DEVICE_ENROLLED,
        EventKind.ALERT_OPENED,
    }
    assert [one.at for one in seen] == sorted(one.at for one in seen)
    for one in seen:
        if one.kind in (EventKind.RUN_FINISHED, EventKind.BUILD_VERIFIED, EventKind.ROLLOUT_FINISHED):
            assert one.projects == [PROJECT], one
        assert len(str(one.data)) < 8000 and one.data
    assert _sight(hub).happened(utc_now() + timedelta(seconds=1)) == []


def test_labels_are_told_apart_from_imports(new: Cli) -> None:
    hub, archive = new.hub, new.hub.folder / "pictures.zip"
    archive.write_bytes(pictures(("0", "1"), each=2))
    hub.datasets.import_archive("digits", archive, append=False, strict=False)
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(picture, "PNG")
    digest = hub.blobs.put(picture.getvalue())
    hub.datasets.add("digits", [Labelled(digest, "1", "samples/1")])
    seen = _sight(hub).happened(utc_now() - timedelta(minutes=1))
    assert [one.kind for one in seen] == [EventKind.DATASET_IMPORTED, EventKind.DATASET_LABELLED]


def test_a_webhook_is_kept_by_the_command_line(cli: Cli, web: WebReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = cli.hub
    made = cli("webhooks", "set", "ops", "--url", web.url, "--event", "rollout.paused", "--project", PROJECT)
    secret = hub.webhooks.get("ops").secret
    assert made.code == 0 and secret in made.out
    assert "rollout.paused" in cli("webhooks", "ls").out and secret not in cli("webhooks", "ls", "--json").out
    assert "sent: HTTP 200" in cli("webhooks", "test", "ops").out
    assert cli("webhooks", "set", "ops", "--url", web.url, "--event", "made.up").code == 4
    rollout = hub.rollouts.create(f"models/{PROJECT}/versions/2", PROJECT, "", RolloutSpec())
    began = utc_now()
    hub.rollouts.pause(rollout.id)
    seen = {(one.kind, one.subject) for one in _sight(hub).happened(began)}
    assert (EventKind.ROLLOUT_PAUSED, f"rollouts/{rollout.id}") in seen
    assert hub.webhooks.look() == 1
    (delivery,) = cli("webhooks", "deliveries", "--webhook", "ops", "--json").json["deliveries"]
    assert (delivery["event"], delivery["subject"]) == ("rollout.paused", f"rollouts/{rollout.id}")
    assert cli("webhooks", "deliveries", "--given-up", "--json").json["deliveries"] == []
    hub.rollouts.resume(rollout.id)
    assert EventKind.ROLLOUT_PAUSED not in {one.kind for one in _sight(hub).happened(began)}
    assert cli("webhooks", "delete", "ops").code == 0


def test_the_page_makes_tests_and_lists_and_shows_the_secret_once(hub: Services, web: WebReceiver) -> None:
    ana = signed_in(hub)
    assert set(KINDS) == {*EventKind}
    wrong = ana.post("/settings/webhooks", data={"name": "chat", "url": "nowhere"})
    assert wrong.status_code == 400 and "https://host/path" in wrong.text
    form = {"name": "chat", "url": web.url, "event": ["rollout.paused"], "project": PROJECT}
    made = ana.post("/settings/webhooks", data=form).text
    secret = hub.webhooks.get("chat").secret
    assert secret in made and secret not in ana.get("/settings/webhooks").text
    assert "took the test event: HTTP 200" in ana.post("/settings/webhooks/chat/test").text
    web.status = 503
    assert "answered HTTP 503" in ana.post("/settings/webhooks/chat/test").text
    rollout = hub.rollouts.create(f"models/{PROJECT}/versions/2", PROJECT, "", RolloutSpec())
    hub.rollouts.pause(rollout.id)
    assert hub.webhooks.look() == 1
    assert f"rollouts/{rollout.id}" in ana.get("/settings/webhooks?webhook=chat").text
    ana.post("/settings/webhooks/chat/delete")
    assert hub.webhooks.list() == []
    viewer = signed_in(hub, "ben", Role.VIEWER)
    assert (
        viewer.get("/settings/webhooks").status_code == 403 and "/settings/webhooks" not in viewer.get("/settings").text
    )


def test_over_rest_secrets_are_told_once(hub: Services, web: WebReceiver) -> None:
    ana: TestClient = signed_in(hub)
    made = ana.post("/api/v1/webhooks/ci:apply", json={"url": web.url, "events": ["build.verified"]}).json()
    assert made["secret"] and made["webhook"]["events"] == ["build.verified"]
    assert made["secret"] not in ana.get("/api/v1/webhooks").text
    assert ana.post("/api/v1/webhooks/ci:test").json() == {"answer": "HTTP 200"}
    assert ana.get("/api/v1/webhook_deliveries", params={"webhook": "ci"}).json()["deliveries"] == []
    assert ana.delete("/api/v1/webhooks/ci").status_code == 204
    refused = ana.post("/api/v1/webhooks/ci:apply", json={"url": web.url, "events": ["made.up"]})
    assert refused.status_code == 400
