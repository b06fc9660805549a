"""What devices build for themselves is proved by measuring it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from milonga_hub.builds.models import Build, BuildState
from milonga_hub.devices.models import DeviceBuild, DeviceBuildState, Measurement
from milonga_hub.projects.models import ProjectSpec

from tests.runs.boards import Board, Hub, connected

VERSION = "models/digits/versions/1"


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path, ProjectSpec(dataset="digits"))


def _bundled(hub: Hub) -> Build:
    """Return a build as the job leaves it: made of what devices build of, and run by nobody."""
    result: dict[str, Any] = {
        "engine": "tensorrt", "precision": "fp16", "state": "BUILT", "reason": "each device builds it", "directory": "",
        "files": [], "size_bytes": 0, "bundle": "", "accuracy": None, "subnet_accuracy": None, "max_abs_error": None,
        "gates": [
            {"name": "parity", "found": None, "allowed": 0.5, "passed": False},
            {"name": "accuracy", "unit": "points", "found": None, "allowed": None, "passed": False},
            {"name": "disagreement", "unit": "%", "found": None, "allowed": 5.0, "passed": False},
        ],
    }  # fmt: skip
    (build,) = hub.services.builds.record(VERSION, "orin", [result], None)
    return build


def _proved(hub: Hub, build: Build, measured: Measurement) -> Build:
    told, _ = hub.services.devices.device_builds(bundle=build.bundle)
    return hub.services.builds.prove(build.name, measured, told)


def _measured(error: str = "") -> Measurement:
    return Measurement(
        id="m-1", device="orin-1", device_type="orin", subnet="", engine="tensorrt", precision="fp16",
        median_ms=None if error else 2.0, error=error,
    )  # fmt: skip


def test_a_build_that_a_device_made_and_ran_is_verified_with_where_it_ran(hub: Hub) -> None:
    build = _bundled(hub)
    told = DeviceBuild(
        device="orin-1", bundle=build.bundle, engine="tensorrt", precision="fp16", gpu="NVIDIA Orin",
        state=DeviceBuildState.VERIFIED, max_abs_error=0.02, agreement=0.98,
    )  # fmt: skip

    async def tell() -> None:
        board = Board("orin-1", lambda item, count: 1.0)
        async with connected(hub.services.devices, {"orin-1": board}):
            hub.services.devices.connections.built(told)

    hub.run(tell)
    known = _proved(hub, build, _measured())
    assert (known.state, known.max_abs_error) == (BuildState.VERIFIED, 0.02)
    assert "orin-1 (NVIDIA Orin)" in known.reason and "accuracy is not measured" in known.reason
    # Told in the terms of builds that the hub makes itself.
    assert known.disagreement == 2.0
    assert {gate.name: gate.passed for gate in known.gates} == {"parity": True, "accuracy": False, "disagreement": True}


def test_one_that_no_device_could_make_stays_built_and_says_why(hub: Hub) -> None:
    build = _bundled(hub)
    known = _proved(hub, build, _measured("tensorrt/fp16: no memory"))
    assert known.state is BuildState.BUILT
    assert known.reason == "not verified on hardware: orin-1: tensorrt/fp16: no memory"
