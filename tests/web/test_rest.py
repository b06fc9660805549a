"""REST, events and what guards them, over the real application and over a real socket."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import zipfile

import httpx
import pytest
from fastapi.testclient import TestClient
from milonga_hub.errors import MilongaError
from milonga_hub.transports.http import ANSWERS, PortInUse, create_app, serve

from tests.web.filled import Services, pictures
from tests.web.people import ADDRESS, cookie_of, signed_in

API = "/api/v1"


@pytest.mark.parametrize(
    ("path", "field", "count"),
    [
        ("/devices", "devices", 4),
        ("/device_types", "device_types", 3),
        ("/join_tokens", "join_tokens", 1),
        ("/measurements", "measurements", 0),
        ("/datasets", "datasets", 1),
        ("/datasets/digits/versions", "dataset_versions", 2),
        ("/projects", "projects", 1),
        ("/runs", "runs", 3),
        ("/projects/digits/runs/1/candidates", "candidates", 36),
        ("/models", "models", 1),
        ("/models/digits/versions", "model_versions", 2),
        ("/builds", "builds", 12),
        ("/rollouts", "rollouts", 2),
        ("/telemetry", "windows", 50),
        ("/drift_events", "drift_events", 1),
        ("/alerts", "alerts", 1),
        ("/alert_silences", "silences", 0),
    ],
)
def test_lists_come_in_pages(client: TestClient, path: str, field: str, count: int) -> None:
    answer = client.get(API + path).json()
    assert len(answer[field]) == count
    first = client.get(API + path, params={"page_size": 1}).json()
    assert len(first[field]) == min(1, count)
    if count > 1:
        second = client.get(API + path, params={"page_size": 1, "page_token": first["next_page_token"]}).json()
        assert second[field] == answer[field][1:2]


@pytest.mark.parametrize(
    "path",
    [
        "/devices/pi5-1",
        "/devices/pi5-1/steps",
        "/device_types/raspberry-pi-5",
        "/datasets/digits",
        "/datasets/digits/versions/1",
        "/projects/digits",
        "/projects/digits/runs/1",
        "/projects/digits/runs/1/history",
        "/models/digits/versions/1",
        "/models/digits/versions/1/builds/raspberry-pi-5:onnxruntime:int8",
        "/rollouts/digits-1",
    ],
)
def test_things_are_found_by_their_names(client: TestClient, path: str) -> None:
    answer = client.get(API + path)
    assert answer.status_code == 200, answer.text
    assert answer.json()


def test_what_was_refused_of_a_device_is_told(client: TestClient) -> None:
    refused = client.get(f"{API}/telemetry/refused", params={"device": "pi5-2"}).json()
    assert (refused["count"], refused["reason"]) == (2, "it sends more telemetry than a device can make")
    assert "2 messages of this device were refused" in client.get("/devices/pi5-2").text
    assert client.get(f"{API}/telemetry/refused", params={"device": "pi5-1"}).json()["count"] == 0


def test_insides_stay_inside(client: TestClient) -> None:
    for path in (
        "/devices",
        "/join_tokens",
        "/runs",
        "/rollouts",
        "/datasets/digits/versions",
        "/telemetry",
        "/alerts",
    ):
        text = client.get(API + path).text
        for secret in ("secret_hash", "boot_ids", "request_id", "spec_json", "listing", "received_at", "told_channels"):
            assert secret not in text, (path, secret)


def test_devices_are_labelled_approved_revoked_and_deleted(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.web.filled import filled

    client = signed_in(filled(tmp_path_factory.mktemp("own")))
    changed = client.patch(f"{API}/devices/pi5-1", json={"labels": {"role": "", "rack": "2"}}).json()
    assert changed["labels"] == {"site": "busan", "rack": "2"}
    assert client.delete(f"{API}/devices/pi5-1").status_code == 204
    assert client.get(f"{API}/devices/pi5-1").status_code == 404
    (asked,) = client.get(f"{API}/join_requests").json()["join_requests"]
    assert (asked["device"], asked["state"]) == ("wants-in", "PENDING")
    assert client.post(f"{API}/join_requests/{asked['id']}:refuse").json()["state"] == "REFUSED"
    assert ">Approve<" in client.get("/devices").text
    assert ">Approve<" not in client.post(f"/join_requests/{asked['id']}/approve").text
    (asked,) = client.get(f"{API}/join_requests").json()["join_requests"]
    assert asked["state"] == "APPROVED"
    assert client.post(f"{API}/devices/pi5-2:revoke").json()["state"] == "REVOKED"
    assert "Revoked" in client.get("/devices/pi5-2").text
    assert "Revoked" in client.post("/devices/pi5-2/revoke").text
    token = client.post(f"{API}/join_tokens", json={"labels": {"a": "b"}, "uses": 2})
    assert (token.status_code, token.json()["join_token"]["uses_left"]) == (201, 2)
    assert token.json()["secret"]


def test_runs_are_started_cancelled_and_resumed(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.web.filled import filled

    client = signed_in(filled(tmp_path_factory.mktemp("own")))
    run = client.post(f"{API}/projects/digits/runs", json={"reason": "why not"}).json()
    assert (run["name"], run["trigger"]) == ("projects/digits/runs/4", "MANUAL")
    assert client.post(f"{API}/projects/digits/runs/4:cancel").json()["state"] == "CANCELLED"
    assert client.post(f"{API}/projects/digits/runs/4:resume").json()["state"] == "QUEUED"
    refused = client.post(f"{API}/projects/digits/runs/1:resume")
    assert client.post(f"{API}/projects/digits/runs/4:approve").status_code == 409
    assert client.post(f"{API}/projects/digits/runs/4:refuse").status_code == 409
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "FAILED_PRECONDITION")
    made = client.post(f"{API}/rollouts", json={"model_version": "models/digits/versions/1"}).json()
    assert made["project"] == "digits"
    assert client.post(f"{API}/rollouts/{made['id']}:pause").json()["state"] == "PAUSED"
    assert client.post(f"{API}/rollouts/{made['id']}:resume").json()["state"] == "RUNNING"
    ended = client.post(f"{API}/rollouts/{made['id']}:abort").json()
    assert (ended["state"], {device["state"] for device in ended["devices"] if device["wave"] >= 0}) == (
        "ABORTED",
        {"SKIPPED"},
    )
    page = client.get(f"/rollouts/{made['id']}").text
    assert '"badge skipped"' in page and '"badge waiting"' not in page and "did not begin" in page
    assert client.post(f"{API}/rollouts/{made['id']}:roll_back").status_code == 409
    button = {"model_version": "models/digits/versions/1", "request_id": "one"}
    for _ in range(2):
        sent = client.post("/new/rollouts", data=button, follow_redirects=False)
        assert (sent.status_code, sent.headers["location"]) == (303, "/rollouts/digits-4")


def test_a_data_set_is_uploaded_and_a_project_applied_to_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    client = signed_in(Services(tmp_path_factory.mktemp("new")))
    files = {"archive": ("pictures.zip", pictures(("a", "b")))}
    made = client.post(f"{API}/datasets/mine/versions", files=files, data={"append": "false"})
    assert made.status_code == 201, made.text
    assert (made.json()["name"], len(made.json()["rejected"])) == ("datasets/mine/versions/1", 1)
    body = {"spec": {"dataset": "mine"}, "dry_run": True, "start_run": True}
    assert client.post(f"{API}/projects/mine:apply", json=body).json()["run"] is None
    assert client.get(f"{API}/projects/mine").status_code == 404
    applied = client.post(f"{API}/projects/mine:apply", json={**body, "dry_run": False}).json()
    assert applied["run"]["name"] == "projects/mine/runs/1"
    assert client.post(f"{API}/projects/mine:apply", json={**body, "dry_run": False}).json()["changes"] == []


def test_a_data_set_is_downloaded_in_a_layout(client: TestClient) -> None:
    answer = client.get(f"{API}/datasets/digits/versions/1/archive", params={"layout": "CLASS_FOLDERS"})
    assert answer.headers["content-disposition"] == 'attachment; filename="digits-v1-class-folders.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None and len(archive.namelist()) == int(answer.headers["milonga-picture-count"])
    refused = client.get(f"{API}/datasets/digits/versions/1/archive", params={"layout": "VOC"})
    assert (refused.status_code, "class folders" in refused.text) == (409, True)


def test_the_description_tells_of_the_errors_that_are_answered(client: TestClient) -> None:
    described = client.get("/api/openapi.json").json()
    statuses = {str(status) for status, _ in ANSWERS.values()}
    for path, operations in described["paths"].items():
        for operation in operations.values():
            # FastAPI's own status for what cannot be used: 400 is answered.
            assert "422" not in operation["responses"], path
            if path.startswith(API):
                assert statuses <= set(operation["responses"]), path
    build = "/models/digits/versions/1/builds/raspberry-pi-5:onnxruntime:fp32"
    for path, named in (
        (f"{build}/log", "/models/{model}/versions/{number}/builds/{build}/log"),
        ("/datasets/digits/versions/1/archive", "/datasets/{dataset}/versions/{number}/archive"),
    ):
        answer = described["paths"][f"{API}{named}"]["get"]["responses"]["200"]
        assert list(answer["content"]) == [client.get(API + path).headers["content-type"].partition(";")[0]]
    error = described["components"]["schemas"]["Error"]["properties"]["error"]
    for answer in (client.get(f"{API}/devices/nobody"), client.get(f"{API}/devices", params={"page_size": -1})):
        told = answer.json()["error"]
        assert set(error["required"]) <= set(told) <= set(error["properties"])


def test_errors_have_one_shape(client: TestClient) -> None:
    for path, status, code in (
        ("/devices/nobody", 404, "NOT_FOUND"),
        ("/nothing", 404, "NOT_FOUND"),
        ("/devices?selector=((", 400, "INVALID_ARGUMENT"),
        ("/devices?page_size=-1", 400, "INVALID_ARGUMENT"),
        ("/devices?page_token=x", 400, "INVALID_ARGUMENT"),
    ):
        answer = client.get(API + path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
        assert answer.json()["error"]["message"]


def test_every_domain_error_has_an_answer() -> None:
    assert set(MilongaError.__subclasses__()) - {PortInUse} <= set(ANSWERS) | {
        each for each in MilongaError.__subclasses__() if each.__module__ != "milonga_hub.errors"
    }


def test_pages_from_elsewhere_can_change_nothing(client: TestClient) -> None:
    url = "/rollouts/digits-2/pause"
    assert client.post(url, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post(url, headers={"Origin": "null"}).status_code == 403
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 404), ("none", 404)):
        assert client.post("/rollouts/none/pause", headers={"Sec-Fetch-Site": site}).status_code == status, site
    assert client.get("/devices", headers={"Host": "evil.example"}).status_code == 403
    assert client.get("/devices", headers={"Host": "localhost:8080"}).status_code == 200


def test_the_policy_lets_browsers_load_nothing_from_elsewhere(client: TestClient) -> None:
    for path in ("/", "/static/live.js", "/api/docs", "/api/v1/devices", "/nowhere"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_the_api_describes_itself(client: TestClient) -> None:
    paths = client.get("/api/openapi.json").json()["paths"]
    page = client.get("/api/docs").text
    assert f"{API}/rollouts/{{rollout}}:pause" in paths
    assert all(path.startswith(("/api/v1/", "/healthz", "/readyz")) for path in paths)
    assert all(path in page for path in paths)
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_hub_is_ready_while_its_database_answers_and_until_it_stops(
    client: TestClient, hub: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (
        200,
        {"status": "ready", "leads": True},
    )
    with monkeypatch.context() as broken:
        broken.setattr(hub.devices, "types", lambda **_: 1 / 0)
        assert client.get("/readyz").status_code == 503
    client.app.state.stopping.set()  # type: ignore[attr-defined]
    try:
        assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (503, {"status": "stopping"})
    finally:
        client.app.state.stopping.clear()  # type: ignore[attr-defined]


def test_changes_reach_listeners_as_events_and_a_stop_ends_their_streams(hub: Services) -> None:
    async def scenario() -> dict[str, object]:
        app = create_app(hub)
        server, port = await serve(app, "127.0.0.1", 0)
        async with httpx.AsyncClient(base_url=f"{ADDRESS}:{port}", cookies=cookie_of(hub), timeout=60) as client:
            async with client.stream("GET", f"{API}/events?topics=devices/pi5-1") as stream:
                lines = stream.aiter_lines()
                assert await anext(lines) == "retry: 2000"
                hub.devices.update_labels("pi5-2", {"rack": "1"})
                hub.devices.update_labels("pi5-1", {"rack": "7"})
                async for line in lines:
                    if line.startswith("data: "):
                        event: dict[str, object] = json.loads(line.removeprefix("data: "))
                        break
                async with asyncio.timeout(5):
                    await server.stop()
                    assert [line async for line in lines if line.startswith("data")] == []
        return event

    event = asyncio.run(scenario())
    assert event["topic"] == "devices/pi5-1"
    assert event["payload"]["labels"]["rack"] == "7"  # type: ignore[index]
    assert "secret_hash" not in event["payload"]  # type: ignore[operator]


def test_a_taken_port_is_named_with_the_flag_that_changes_it(hub: Services) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"port {port} .*--http-port"):
            asyncio.run(serve(create_app(hub), "127.0.0.1", port))
