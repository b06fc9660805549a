"""Devices tell what power they draw and whether they were throttled, where their sensors do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from milonga_agent.limits import default_threads
from milonga_agent.machine import Machine
from milonga_agent.sensors import power_watts
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.rules_series import Sum, summed

from tests.telemetry.windows import START, window

FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"
COUNT = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
HWMON, BATTERY = "sys/class/hwmon/hwmon", "sys/class/power_supply/BAT0"


def _write(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def _sum(*taken: Mapping[str, dict[str, Any]]) -> Sum:
    windows = [window(inputs={name: Histogram(**one) for name, one in each.items()}) for each in taken]
    return summed(windows, START)


@pytest.mark.parametrize(
    ("files", "watts"),
    [
        ({}, None),
        # A Jetson's INA3221: the board's rail is the largest.
        (
            {
                f"{HWMON}1/in1_input": "19144", f"{HWMON}1/curr1_input": "440",
                f"{HWMON}1/in2_input": "5000", f"{HWMON}1/curr2_input": "300",
            },
            8.42336,
        ),
        ({f"{HWMON}0/power1_input": "3250000"}, 3.25),
        ({f"{HWMON}0/curr1_input": "440"}, None),
        ({f"{BATTERY}/status": "Discharging", f"{BATTERY}/power_now": "6100000"}, 6.1),
        ({f"{BATTERY}/status": "Charging", f"{BATTERY}/power_now": "6100000"}, None),
        ({f"{HWMON}0/power1_input": "not a number"}, None),
    ],
)  # fmt: skip
def test_power_is_what_the_board_draws(files: Mapping[str, str], watts: float | None, tmp_path: Path) -> None:
    assert power_watts(_write(tmp_path, files)) == watts


def test_a_machine_without_such_sensors_tells_nothing_and_has_no_lines(tmp_path: Path) -> None:
    assert Machine(tmp_path).take() == {}
    whole = _sum({})
    assert (whole.power_watts, whole.throttled_share) == (None, None)


def test_a_count_that_grew_since_the_last_window_is_throttling(tmp_path: Path) -> None:
    machine = Machine(_write(tmp_path, {COUNT: "7"}))
    assert machine.take()["throttled"]["counts"] == [1, 0]
    _write(tmp_path, {COUNT: "9"})
    assert machine.take()["throttled"]["counts"] == [0, 1]
    assert machine.take()["throttled"]["counts"] == [1, 0]


def test_a_raspberry_pi_that_is_held_back_now_is_throttled(tmp_path: Path) -> None:
    machine = Machine(_write(tmp_path, {FIRMWARE: "0"}))
    assert machine.take()["throttled"]["counts"] == [1, 0]
    _write(tmp_path, {FIRMWARE: "80008"})
    assert machine.take()["throttled"]["counts"] == [0, 1]


def test_charts_show_mean_power_and_the_share_of_throttled_windows(tmp_path: Path) -> None:
    root = _write(tmp_path, {FIRMWARE: "0", f"{HWMON}0/power1_input": "4000000"})
    machine = Machine(root)
    calm = [machine.take() for _ in range(3)]
    _write(root, {FIRMWARE: "80008", f"{HWMON}0/power1_input": "8000000"})
    whole = _sum(*calm, machine.take())
    assert whole.throttled_share == 0.25
    assert whole.power_watts == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize("watts", ["1", "999999999999"])
def test_power_beyond_the_bins_is_in_the_first_or_last(watts: str, tmp_path: Path) -> None:
    counts = Machine(_write(tmp_path, {f"{HWMON}0/power1_input": watts})).take()["power"]["counts"]
    assert (sum(counts), counts[0] + counts[-1]) == (1, 1)


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "50000"}, 2),
    ],
)
def test_a_container_takes_as_many_threads_as_its_quota_feeds(
    files: Mapping[str, str], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    root = _write(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert default_threads(root) == threads
