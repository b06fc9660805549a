"""The build stage of a run: candidates are measured on the devices, the fastest that passes wins, and all of them are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from milonga_hub.devices.service import MeasurementItem
from milonga_hub.errors import FailedPrecondition
from milonga_hub.projects.models import BuildSpec, Limits, ProjectSpec
from milonga_hub.rollouts.models import Rollout, RolloutDevice, RolloutDeviceState, RolloutState
from milonga_hub.runs.building import build
from milonga_hub.runs.candidates import Choice, Specialised, keep
from milonga_hub.runs.deliver import _champions
from milonga_hub.runs.stages import Report
from milonga_hub.runs.tuning import how_tuned

from tests.builds.test_job import _spec
from tests.runs.boards import Board, Hub

TARGETS = ["onnxruntime/fp32", "reference/fp32"]


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    (tmp_path / "hub").mkdir()
    hub = Hub(tmp_path / "hub", ProjectSpec(dataset="digits", build=BuildSpec(targets=TARGETS, tuning_minutes=2.5)))
    hub.boards = {
        "quick": Board("quick", lambda item, count: {"onnxruntime": 2.0, "reference": 1.5}[item.engine]),
        "tight": Board("tight", lambda item, count: 9.0),
    }
    return hub


def _candidate(order: dict[str, Any], digit: str, accuracy: float) -> dict[str, Any]:
    """Return what a search says of the network of an order, as if it were a subnet of its own."""
    return {
        "subnet": "sha256:" + digit * 64, "precision": "fp32", "accuracy": accuracy, "checkpoint": "",
        "resolution_px": order["manifest"]["size_px"],
        **{key: order[key] for key in ("onnx", "expected", "subnet_accuracy")},
    }  # fmt: skip


def _order(hub: Hub, folder: Path) -> dict[str, Any]:
    order = _spec(folder)
    (hub.work.folder / "data.npz").write_bytes(Path(order["data"]).read_bytes())
    return order


def _stage(hub: Hub, folder: Path, limits: dict[str, Limits]) -> tuple[Any, Specialised]:
    order, plan = _order(hub, folder), hub.plan(limits)
    # As if one network had been chosen for all types.
    found = Specialised({item.name: Choice(item, _candidate(order, "1", 0.9), 2.0) for item in plan.types}, {})
    return hub.run(lambda: hub.stage("build", lambda report: build(hub.work, plan, {"checkpoint": ""}, found, report)))


def test_each_type_gets_its_fastest_and_one_that_has_none_is_left_out_with_every_reason(
    hub: Hub, tmp_path: Path
) -> None:
    version, able = _stage(hub, tmp_path, {"tight": Limits(latency_ms=5.0)})
    builds = hub.services.builds
    assert {name: one.target for name, one in builds.chosen(version.name).items()} == {"quick": "reference/fp32"}
    assert list(able.choices) == ["quick"]
    assert "onnxruntime/fp32 not used: 9 ms, 5 ms allowed" in able.impossible["tight"]
    assert "milonga build override" in able.impossible["tight"]
    other = builds.get(f"{version.name}/builds/quick:onnxruntime:fp32")
    assert (other.measured_ms, other.measured_on, other.decision) == (2.0, "quick", "33.3% slower than reference/fp32")
    assert {gate.name: gate.passed for gate in other.gates} == dict.fromkeys(
        ("parity", "accuracy", "disagreement", "latency", "size"), True
    )
    assert builds.orders.types(version.name) == ["quick", "tight"]
    # One folder of the project's tuned kernels serves all types of an architecture.
    orders = [builds.orders.get(version.name, name).spec for name in ("quick", "tight")]
    assert [one["tuning_minutes"] for one in orders] == [2.5, 2.5]
    assert {one["tuning_database"] for one in orders} == {str(hub.work.folder.parent / "tuned" / "hub")}


def test_load_that_comes_after_the_first_round_is_told_from_a_slow_build_by_further_rounds(
    hub: Hub, tmp_path: Path
) -> None:
    del hub.boards["tight"]
    board = hub.boards["quick"]

    def speed(item: MeasurementItem, count: int) -> float:
        return {"onnxruntime": 2.0, "reference": 2.4}[item.engine] * (
            1.4 if item.engine == "onnxruntime" and count < 2 else 1.0
        )

    board.speed = speed
    version, _ = _stage(hub, tmp_path, {})
    builds = {one.target: one for one in hub.services.builds.list(version.name)[0]}
    assert builds["onnxruntime/fp32"].chosen and builds["onnxruntime/fp32"].measured_ms == 2.0
    assert builds["reference/fp32"].measured_ms == pytest.approx(2.4)
    assert builds["reference/fp32"].decision == "20.0% slower than onnxruntime/fp32"
    asked = len(board.asked)
    assert asked >= 2 * 3 and asked % 2 == 0
    kept, _ = hub.services.devices.measurements("quick", hub.work.run.name)
    assert {one.purpose for one in kept} >= {"build", "build, round 2", "build, round 3"} and len(kept) == asked


def test_devices_that_time_kernels_are_asked_for_each_type_that_gains_and_for_no_build_later(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    wanted = BuildSpec(targets=[*TARGETS, "tvm/fp32"], tuning_minutes=3.0, tune_on_devices=True)
    hub = Hub(tmp_path / "hub", ProjectSpec(dataset="digits", build=wanted))
    hub.boards = {"pi": Board("pi", lambda item, count: 2.0)}
    plan = hub.plan({})
    tuning, report = how_tuned(hub.work, plan, plan.types[0]), Report(hub.services.runs, "", "build", silent=True)
    root = hub.work.folder.parent / "tuned"
    on = {"device": "", "threads": 1}
    assert tuning.told == {"tuning_minutes": 3.0, "tuning_database": str(root / "on-devices" / "pi"), "tuning_on": on}
    assert tuning.question(report, 0.0) is not None
    assert {**tuning.told, **tuning.afterwards}["tuning_minutes"] == 0.0
    without = how_tuned(hub.work, plan, plan.types[0].model_copy(update={"targets": TARGETS}))
    assert without.told["tuning_database"] == str(root / "hub") and without.question(report, 0.0) is None


def test_a_run_ends_where_no_type_has_a_build_and_the_table_stays(hub: Hub, tmp_path: Path) -> None:
    del hub.boards["quick"]
    with pytest.raises(FailedPrecondition, match=r"no build for tight can be used"):
        _stage(hub, tmp_path, dict.fromkeys(hub.boards, Limits(latency_ms=1.0)))
    builds, _ = hub.services.builds.list()
    assert {one.decision for one in builds if one.device_type == "tight"} == {"not used: 9 ms, 1 ms allowed"}


def test_a_build_that_takes_more_memory_than_allowed_on_the_device_is_not_used(hub: Hub, tmp_path: Path) -> None:
    del hub.boards["tight"]
    hub.boards["quick"].memory = lambda item: {"onnxruntime": 60_000_000, "reference": 80_000_000}[item.engine]
    version, able = _stage(hub, tmp_path, {"quick": Limits(memory_bytes=70_000_000)})
    chosen = hub.services.builds.chosen(version.name)["quick"]
    assert (chosen.target, chosen.measured_memory_bytes) == ("onnxruntime/fp32", 60_000_000) and not able.impossible
    other = hub.services.builds.get(f"{version.name}/builds/quick:reference:fp32")
    assert other.decision == "not used: it took 80000000 bytes of memory, 70000000 allowed"
    assert [(gate.name, gate.allowed) for gate in other.gates if not gate.passed] == [("memory", 70e6)]
    assert hub.services.builds.compare(version.name, "quick") == chosen


def test_a_subnet_of_which_no_build_can_be_used_gives_way_to_the_next_best_and_stays_so_after_a_restart(
    hub: Hub, tmp_path: Path
) -> None:
    del hub.boards["quick"]
    order, plan = _order(hub, tmp_path), hub.plan({"tight": Limits(latency_ms=5.0)})
    first, second, third = (
        _candidate(order, digit, accuracy) for digit, accuracy in (("1", 0.9), ("2", 0.8), ("3", 0.7))
    )
    hub.boards["tight"].speed = lambda item, count: {"1": 9.0, "2": 4.0, "3": 1.0}[item.subnet[-1]]
    item = plan.types[0]
    choice = Choice(item, first, 2.0, (Choice(item, second, 2.0), Choice(item, third, 2.0)))
    keep(hub.work, "tight", [first, second, third], {}, first)

    def again() -> tuple[Any, Specialised]:
        found = Specialised({"tight": choice}, {})
        return hub.run(
            lambda: hub.stage("build", lambda report: build(hub.work, plan, {"checkpoint": ""}, found, report))
        )

    version, able = again()
    assert able.choices["tight"].subnet == second["subnet"] and not able.impossible
    assert version.subnets == {"tight": second["subnet"]} and version.accuracies == {"tight": 0.8}
    chosen = hub.services.builds.chosen(version.name)["tight"]
    assert (chosen.subnet, chosen.measured_ms) == (second["subnet"], 4.0)
    shown = {one.subnet: one for one in hub.services.runs.candidates(hub.work.run.name, "tight")[0]}
    assert [shown[one["subnet"]].chosen for one in (first, second, third)] == [False, True, False]
    assert "9 ms, 5 ms allowed" in shown[first["subnet"]].note
    asked = hub.asked()
    assert again() == (version, able)
    assert hub.asked() == asked and hub.services.builds.chosen(version.name)["tight"] == chosen


def test_a_device_that_was_deleted_since_it_took_a_version_keeps_no_run_from_comparing(hub: Hub) -> None:
    gone = RolloutDevice(device="gone", wave=0, state=RolloutDeviceState.SUCCEEDED)
    done = Rollout(
        id="digits-1",
        project="digits",
        model_version="models/digits/versions/1",
        state=RolloutState.SUCCEEDED,
        devices=[gone],
    )
    with hub.services.database.session() as session:
        session.add(done)
    assert _champions(hub.work) == {}
