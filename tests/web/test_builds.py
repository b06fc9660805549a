"""What people and programs decide of builds over HTTP: allow, choose, start, download."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from milonga_hub.builds.models import BuildTuning, TuningSite
from milonga_hub.builds.rules import FREE
from milonga_hub.devices.models import Measurement

from tests.agent.bundles import example
from tests.builds.test_service import _verified
from tests.web.filled import Services
from tests.web.people import signed_in

VERSION = "models/digits/versions/1"
NAME = f"{VERSION}/builds/pi:onnxruntime:fp32"
PLACE = f"/{NAME}"
API = f"/api/v1{PLACE}"


@pytest.fixture
def hub(tmp_path: Path) -> Services:
    """Return a hub with one version, of which one build was never run."""
    hub = Services(tmp_path)
    hub.models.create_version("digits", "projects/digits/runs/1", "", "", {}, {})
    unseen = {**_verified(tmp_path / "made"), "state": "BUILT", "reason": "it is built for aarch64"}
    hub.builds.record(VERSION, "pi", [unseen], None)
    return hub


@pytest.fixture
def client(hub: Services) -> TestClient:
    return signed_in(hub)


def test_a_build_is_allowed_and_chosen_on_its_page_and_the_page_says_who_and_why(client: TestClient) -> None:
    text = client.get(PLACE).text
    assert (
        "It is built, not verified" in text and f'action="/{VERSION}/builds/pi%3Aonnxruntime%3Afp32/override"' in text
    )
    assert "/choose" not in text
    refused = client.post(f"{PLACE}/override", data={"reason": " "})
    assert refused.status_code == 400 and "give a reason" in refused.text
    answer = client.post(f"{PLACE}/override", data={"reason": "seen <on> my desk"})
    assert "Allowed without being verified by ana" in answer.text and "seen &lt;on&gt; my desk" in answer.text
    assert "chosen</span>" in client.post(f"{PLACE}/choose").text
    assert "allowed by ana" in client.get(f"/{VERSION}").text


def test_the_page_of_a_build_that_devices_could_not_make_says_why_once(hub: Services, client: TestClient) -> None:
    why = "tensorrt is not installed here"
    hub.builds.set_measured(NAME, None, device="orin-1", error=why)
    failed = Measurement(
        id="m-1", device="orin-1", device_type="pi", subnet="s1", engine="onnxruntime", precision="fp32", error=why
    )
    hub.builds.prove(NAME, failed, [])
    hub.builds.select(hub.builds.of_type(VERSION, "pi"), FREE)
    text = client.get(PLACE).text
    assert "not used: it is built, not verified<" in text
    facts = text[: text.index('class="actions"')]
    assert facts.count(why) == 1 and f"not verified on hardware: orin-1: {why}" in facts
    assert why in client.get(f"/{VERSION}").text


def test_the_page_of_a_build_has_its_figure_and_why_there_is_no_newer_one(hub: Services, client: TestClient) -> None:
    hub.builds.set_measured(NAME, 2.5, device="orin-1", memory_bytes=30_000_000)
    hub.builds.set_measured(NAME, None, error="orin-1 was away")
    build = hub.builds.get(NAME)
    assert (build.measured_ms, build.measured_on, build.measured_memory_bytes) == (2.5, "orin-1", 30_000_000)
    text = client.get(PLACE).text
    assert "2.5 ms" in text and "not measured anew: orin-1 was away" in text
    hub.builds.set_measured(NAME, 3.5, device="orin-2")
    assert "not measured anew" not in client.get(PLACE).text and hub.builds.get(NAME).measured_memory_bytes is None


def test_a_build_is_allowed_and_chosen_over_rest(client: TestClient) -> None:
    assert client.post(f"{API}:choose").json()["error"]["code"] == "FAILED_PRECONDITION"
    assert client.post(f"{API}:override", json={"by": "ben", "reason": ""}).status_code == 400
    allowed = client.post(f"{API}:override", json={"by": "ben", "reason": "why not"}).json()["override"]
    assert (allowed["by"], allowed["reason"]) == ("ana", "why not") and allowed["at"]
    assert client.post(f"{API}:choose").json()["chosen"] is True


def test_a_build_is_started_over_rest_and_by_the_page(client: TestClient, hub: Services) -> None:
    hub.builds.orders.keep(VERSION, "pi", {}, FREE, None)
    body = {"device_type": "pi", "target": "openvino/int8"}
    made = client.post(f"/api/v1/{VERSION}/builds", json=body)
    assert (made.status_code, made.json()["state"], made.json()["in_progress"]) == (201, "BUILDING", True)
    assert "Build another target" in client.get(f"/{VERSION}").text
    answer = client.post(f"/{VERSION}/builds", data={**body, "target": "ncnn/fp16"})
    assert "ncnn/fp16 for pi" in answer.text and "in progress" in answer.text
    assert [build.target for build in hub.builds.queued()] == ["ncnn/fp16", "openvino/int8"]
    place = f"/{VERSION}/builds/pi:ncnn:fp16"
    assert "in progress" not in client.post(f"{place}/cancel").text
    assert client.post(f"/api/v1{place}:cancel").json()["error"]["code"] == "FAILED_PRECONDITION"
    assert [build.target for build in hub.builds.queued()] == ["openvino/int8"]


def test_a_build_is_started_with_a_tuning_by_the_page(client: TestClient, hub: Services) -> None:
    hub.builds.orders.keep(VERSION, "pi", {}, FREE, None)
    assert "Tuning, of tvm alone" in client.get(f"/{VERSION}").text
    body = {"device_type": "pi", "target": "tvm/fp32", "tuning_minutes": "12.5"}
    client.post(f"/{VERSION}/builds", data=body)
    client.post(f"/{VERSION}/builds", data={**body, "target": "ncnn/fp32", "tuning_minutes": ""})
    asked = {build.target: build.wanted_tuning for build in hub.builds.queued()}
    assert asked == {"tvm/fp32": BuildTuning(site=TuningSite.DEVICE, minutes=12.5), "ncnn/fp32": None}
    for wrong, why in (
        ({"target": "ncnn/fp16"}, "is not tuned"),
        ({"tuning_minutes": "ten"}, "not a number of minutes"),
    ):
        refused = client.post(f"/{VERSION}/builds", data={**body, "target": "tvm/fp32", **wrong})
        assert refused.status_code == 400 and why in refused.text


def test_a_bundle_is_downloaded_with_its_program_its_manifest_and_its_log(
    client: TestClient, hub: Services, tmp_path: Path
) -> None:
    made = example(tmp_path, "onnxruntime").bundle
    log = tmp_path / "made.log"
    log.write_text("[10:00:00] building\n")
    files = [vars(file) for file in made.files]
    result = {**_verified(tmp_path / "x"), "directory": str(made.folder), "files": files, "bundle": made.digest}
    hub.builds.record(VERSION, "pi", [{**result, "log": str(log)}], None)
    program = client.get(f"{API}/example")
    assert program.headers["content-disposition"].endswith('"example.py"') and "import onnxruntime" in program.text
    with zipfile.ZipFile(io.BytesIO(client.get(f"{API}/bundle").content)) as packed:
        assert packed.read("example.py").decode() == program.text
        assert set(packed.namelist()) == {"example.py", *(file.path for file in made.files)}
    assert client.get(f"{API}/manifest").json() == made.manifest
    assert client.get(f"{API}/log").text == "[10:00:00] building\n"


def test_builds_of_a_model_stand_by_version_and_target(client: TestClient, hub: Services, tmp_path: Path) -> None:
    second = hub.models.create_version("digits", "projects/digits/runs/2", "", "", {}, {}).name
    made = {**_verified(tmp_path / "second"), "precision": "int8", "accuracy": 0.97, "subnet_accuracy": 0.975}
    made["gates"] = [{"name": "disagreement", "unit": "%", "found": 1.3, "allowed": None, "passed": True}]
    hub.builds.record(second, "pi", [made], None)
    text = client.get("/models/digits/builds").text
    assert text.index("digits v2") < text.index("digits v1"), "the newest comes first"
    group, *rows = text.split("<tbody>")[1].split("</tr>")
    assert ">pi</th>" in group and "onnxruntime/fp32" in rows[0]
    assert rows[0].index("not built") < rows[0].index(f"/{VERSION}/builds/pi%3Aonnxruntime%3Afp32")
    assert rows[1].index(f"/{second}/builds/pi%3Aonnxruntime%3Aint8") < rows[1].index("not built")
    assert "97.0" in rows[1] and "0.50 points lost" in rows[1]
    assert "1.3% of answers differ" in rows[1] and "differ" not in rows[0], "nobody knows it of what never ran"
    assert 'href="/models/digits/builds"' in client.get(f"/{VERSION}").text
    assert "there is no version of" in client.get("/models/nobody/builds").text
