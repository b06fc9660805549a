"""What types are called, who is online, what names may look like."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.devices import rules
from milonga_hub.devices.models import Accelerator, Assignment, Engine, Inventory
from milonga_hub.errors import InvalidInput

from tests.devices.world import START

MIB = 1 << 20
PI = Inventory(
    board="Raspberry Pi 5 Model B Rev 1.0",
    architecture="aarch64",
    cpu_model="Cortex-A76",
    cpu_features=["neon", "dotprod"],
    cores=4,
    threads=4,
    memory_bytes=8050 * MIB,
    engines=[Engine(name="onnxruntime", version="1.19.2")],
)


@pytest.mark.parametrize(
    ("inventory", "taken", "name"),
    [
        (PI, (), "raspberry-pi-5-model-b-rev-1-0"),
        (PI, ("raspberry-pi-5-model-b-rev-1-0",), "raspberry-pi-5-model-b-rev-1-0-2"),
        (Inventory(board="a"), ("a", "a-2", "a-4"), "a-3"),
        (Inventory(cpu_model="Intel(R) Xeon(R) CPU @ 2.20GHz", threads=2), (), "intel-xeon-cpu-2-20ghz-2t"),
        (Inventory(architecture="x86_64", threads=1), (), "x86-64-1t"),
        (Inventory(), (), "unknown-0t"),
    ],
)
def test_a_type_is_named_after_its_board_or_processor(inventory: Inventory, taken: tuple[str, ...], name: str) -> None:
    assert rules.type_name(inventory, taken) == name


@given(st.text(), st.text())
def test_a_type_name_can_be_a_device_name_too(board: str, cpu: str) -> None:
    rules.check_name(rules.type_name(Inventory(board=board, cpu_model=cpu, threads=64), ()))


@pytest.mark.parametrize(
    "change",
    [
        {"hostname": "other", "machine_id": "other", "kernel": "6.9", "disk_free_bytes": 7},
        {"cpu_features": ["dotprod", "neon"]},
        {"memory_bytes": 8070 * MIB},
        {"engines": [Engine(name="onnxruntime", version="1.19.3")]},
    ],
)
def test_what_does_not_change_how_models_run_leaves_the_type(change: dict[str, object]) -> None:
    assert rules.fingerprint(PI.model_copy(update=change), False) == rules.fingerprint(PI, False)


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 2},
        {"cores": 2},
        {"memory_bytes": 4025 * MIB},
        {"architecture": "armv7l"},
        {"cpu_features": ["neon"]},
        {"engines": [Engine(name="onnxruntime", version="1.20.0")]},
        {"accelerators": [Accelerator(kind="npu", model="hailo-8")]},
    ],
)
def test_what_changes_how_models_run_makes_another_type(change: dict[str, object]) -> None:
    assert rules.fingerprint(PI.model_copy(update=change), False) != rules.fingerprint(PI, False)


def test_a_simulated_device_is_never_of_a_real_type() -> None:
    assert rules.fingerprint(PI, True) != rules.fingerprint(PI, False)


@given(st.integers(0, 1 << 44))
def test_memory_is_rounded_by_less_than_a_tenth_or_half_a_step(memory_bytes: int) -> None:
    rounded = rules.memory_bucket_bytes(memory_bytes)
    assert abs(rounded - memory_bytes) <= max(32 * MIB, memory_bytes * 0.1)


def test_three_missed_heartbeats_take_a_device_offline() -> None:
    assert rules.is_online(START, START + timedelta(seconds=30), 10, 3)
    assert not rules.is_online(START, START + timedelta(seconds=30.001), 10, 3)
    assert not rules.is_online(None, START, 10, 3)


@pytest.mark.parametrize("name", ["a", "pi-1", "0", "a" * 63])
def test_a_good_name_is_taken(name: str) -> None:
    rules.check_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "Pi", "pi_1", "a" * 64, "a/b", "a\n", "ü", "+", "#"])
def test_a_name_that_topics_or_paths_could_misread_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be a device's name"):
        rules.check_name(name)


@pytest.mark.parametrize("labels", [{"": "x"}, {"a b": "x"}, {"type": "x"}, {"a": "x" * 254}, {"a": "x\n"}])
def test_labels_that_no_selector_could_name_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        rules.check_labels(labels)


def test_a_time_zone_that_there_is_not_is_no_label() -> None:
    rules.check_labels({"time_zone": "Asia/Seoul"})
    rules.check_labels({"time_zone": ""})  # Takes it away.
    with pytest.raises(InvalidInput, match="no time zone 'Mars/Phobos'; write for example UTC, Asia/Seoul"):
        rules.check_labels({"time_zone": "Mars/Phobos"})


def test_an_empty_value_removes_a_label() -> None:
    assert rules.merged({"a": "1", "b": "2"}, {"a": "", "c": "3"}) == {"b": "2", "c": "3"}


def test_generations_grow_past_whatever_the_device_has_seen() -> None:
    assert rules.next_generation(None, 0) == 1
    assert rules.next_generation(Assignment(device="a", generation=4), 2) == 5
    assert rules.next_generation(Assignment(device="a", generation=4), 9) == 10


@given(st.floats(-1e9, 1e9), st.floats(-0.04, 0.04))
def test_a_clock_near_a_limit_does_not_cross_it_again_and_again(ahead: float, jitter: float) -> None:
    noted = rules.noted_clock(None, ahead)
    assert noted is not None and abs(noted - ahead) <= 0.06
    near = noted * (1 + jitter)
    assert rules.noted_clock(noted, near) == noted
    # Once it is right, it is noted as right, unless it was nearly so.
    mended = rules.noted_clock(noted, 0.0)
    assert mended == (noted if abs(noted) <= 5 else 0.0)
    assert rules.noted_clock(noted, None) is None
