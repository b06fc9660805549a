"""Detection around the whole loop, small: from pictures with boxes to a device that serves boxes over HTTP."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from milonga.v1 import devices_pb2, models_pb2, projects_pb2, telemetry_pb2

from tests.e2e.processes import QUICKLY, System

pytest.importorskip("ultralytics", reason="detection needs: pip install 'milonga-hub[yolo]'")
pytest.importorskip("skimage", reason="the pictures are scikit-image's")

from tests.digits_scenes import write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parent.parent.parent
PROJECT, CLASSES = "scenes", 3
# So short a training learns nothing worth having: what is tested is that everything fits together. Devices tell even what they
# are not sure of, so that there are boxes.
MOST_BOXES = 7
SPEC: dict[str, dict[str, Any]] = {
    "training": {"space": "yolo26n", "resolution_px": 64, "epochs": 2, "finetune_epochs": 1, "batch_size": 8},
    "search": {
        "measured_subnets": 4, "further_measurements": 0, "evaluated_subnets": 8,
        "population": 8, "generations": 2, "verified_candidates": 1,
    },
    "build": {"targets": ["onnxruntime/fp32"]},
    "detection": {"score_threshold": 0.0, "max_boxes": MOST_BOXES},
    "rollout": {"waves": [1.0], "soak_seconds": 0.2},
}  # fmt: skip


@dataclass
class Served:
    """A system in which one device serves what one run of a detection project chose."""

    system: System
    data: Path

    def cli(self, *arguments: str) -> Any:
        command = [sys.executable, "-m", "milonga_hub.cli", "--hub", self.system.addresses["grpc"]]
        done = subprocess.run([*command, *arguments, "--json"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def ask(self, *pictures: bytes) -> dict[str, Any]:
        """Return the device's outputs for pictures by name."""
        (device,) = self.system.api.devices.ListDevices(devices_pb2.ListDevicesRequest()).devices
        data = [base64.b64encode(one).decode() for one in pictures]
        body = {"inputs": [{"name": "picture", "shape": [len(data)], "datatype": "BYTES", "data": data}]}
        request = urllib.request.Request(
            f"{device.serving_url}/v2/models/{PROJECT}/infer",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return {one["name"]: one for one in json.load(response)["outputs"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("detection")
    data = write(folder / "data", train=24, val=8, seed=0, size_px=72, classes=CLASSES)
    with System(folder, ("--heartbeat-seconds", "1", "--telemetry-seconds", "0.5", *QUICKLY)) as system:
        system.start_hub()
        found = Served(system, data)
        system.start_agent("pi5", found.cli("tokens", "create")["secret"], ("--threads", "1"))
        system.wait("the device", lambda: _online(system), 60)
        found.cli("datasets", "import", str(data.parent), "--name", PROJECT)
        document = yaml.safe_load((ROOT / "fleet_configs" / "projects" / "scenes.yaml").read_text(encoding="utf-8"))
        for section, values in SPEC.items():
            document["spec"].setdefault(section, {}).update(values)
        (folder / "scenes.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        run = found.cli("apply", "-f", str(folder / "scenes.yaml"))["run"]["name"]
        *_, last = system.api.runs.WatchRun(projects_pb2.WatchRunRequest(name=run))
        assert last.run.state == projects_pb2.RUN_STATE_SUCCEEDED, last.run.error
        yield found


def _online(system: System) -> bool:
    devices = system.api.devices.ListDevices(devices_pb2.ListDevicesRequest()).devices
    return any(one.state == devices_pb2.DEVICE_STATE_ONLINE for one in devices)


def test_the_data_set_counts_boxes(served: Served) -> None:
    (version,) = served.cli("datasets", "versions", PROJECT)["dataset_versions"]
    assert version["task"] == "TASK_DETECTION"
    assert (version["train_count"], version["validation_count"]) == (24, 8)
    boxes = sum(len(path.read_text().splitlines()) for path in served.data.parent.rglob("labels/*/*.txt"))
    assert sum(version["class_counts"].values()) == boxes > 32


def test_a_verified_build_is_chosen(served: Served) -> None:
    request = models_pb2.ListBuildsRequest(model_version=f"models/{PROJECT}/versions/1")
    (build,) = served.system.api.builds.ListBuilds(request).builds
    assert build.state == models_pb2.BUILD_STATE_VERIFIED and build.chosen, build.reason
    assert build.task == projects_pb2.TASK_DETECTION
    assert abs(build.accuracy - build.subnet_accuracy) < 0.0051 and build.measured_ms > 0


def test_a_device_answers_pictures_with_boxes(served: Served) -> None:
    pictures = [path.read_bytes() for path in sorted((served.data.parent / "images" / "val").iterdir())[:3]]
    found = served.ask(*pictures)
    assert set(found) == {"count", "boxes", "scores", "class"}
    count = sum(found["count"]["data"])
    assert found["count"]["data"] == [MOST_BOXES] * 3
    assert found["count"]["shape"] == [3] and found["count"]["datatype"] == "INT32"
    assert found["boxes"]["shape"] == [count, 4]
    assert found["scores"]["shape"] == found["class"]["shape"] == [count]
    assert all(0 <= value <= 72 for value in found["boxes"]["data"])
    assert set(found["class"]["data"]) <= {f"digit {number}" for number in range(CLASSES)}


def test_telemetry_counts_requests_and_boxes(served: Served) -> None:
    picture = next((served.data.parent / "images" / "val").iterdir()).read_bytes()
    boxes = sum(sum(served.ask(picture)["count"]["data"]) for _ in range(5))

    def windows() -> list[telemetry_pb2.TelemetryWindow] | None:
        request = telemetry_pb2.QueryTelemetryRequest(project=PROJECT, page_size=1000)
        seen = served.system.api.telemetry.QueryTelemetry(request).windows
        return list(seen) if sum(one.request_count for one in seen) >= 5 else None

    seen = served.system.wait("telemetry", windows, 60)
    counted = sum(sum(one.class_counts) for one in seen)
    assert counted == sum(sum(one.confidence.counts) for one in seen) >= boxes
    assert sum(sum(one.inputs["brightness"].counts) for one in seen) >= 5


def test_the_chosen_subnet_is_downloaded_as_ultralytics_loads_it(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "subnet.pt"
    served.cli("models", "checkpoint", f"{PROJECT}/1", "--output", str(path))
    from milonga_hub.learning import ultralytics_offline  # noqa: F401  must come before ultralytics
    from ultralytics import YOLO

    model = YOLO(str(path))
    assert list(model.names.values()) == [f"digit {number}" for number in range(CLASSES)]
    url = f"/api/v1/models/{PROJECT}/versions/1"
    (device_type,) = json.loads(served.system.fetch(url))["checkpoints"]
    assert served.system.fetch(f"{url}/checkpoints/{device_type}") == path.read_bytes()


def test_pages_name_the_measure(served: Served) -> None:
    for path in (f"/models/{PROJECT}/versions/1", f"/runs/{PROJECT}/1"):
        # Figures behind pictures are named as the API names them.
        text = re.sub("(?s)<metadata>.*?</metadata>", "", served.system.fetch(path).decode())
        assert "mAP50-95" in text and "ccuracy" not in text.replace("accuracy predictor", "")
