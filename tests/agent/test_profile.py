"""Latency, measured: on devices laid out as folders with a clock of their own, and once for real."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milonga_agent.measuring import Rest, measurement_result
from milonga_agent.profile import (
    Clock,
    Effort,
    Series,
    cool_down,
    describe,
    drifting,
    measure,
    median_interval,
    pinned,
    profile,
    throttled,
    warm,
)
from milonga_agent.runtimes import load
from milonga_agent.sensors import Reading, fastest_cpus, read_sensors, temperature_celsius

from tests.compiler.networks import digits, write_network

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
QUICK = Effort(min_repeats=5, max_repeats=30, budget_seconds=2.0, cool_seconds=0.0)


def _write(root: Path, files: Mapping[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return root


def _cpus(count: int, files: Callable[[int], Mapping[str, str]]) -> dict[str, str]:
    return {f"sys/devices/system/cpu/cpu{n}/{path}": text for n in range(count) for path, text in files(n).items()}


def _zones(*zones: tuple[str, str]) -> dict[str, str]:
    return {
        f"sys/class/thermal/thermal_zone{n}/{name}": text
        for n, zone in enumerate(zones)
        for name, text in zip(("type", "temp"), zone, strict=True)
    }


def _pi4(root: Path) -> Path:
    def cpu(n: int) -> Mapping[str, str]:
        return {
            "cpufreq/cpuinfo_max_freq": "1800000",
            "cpufreq/scaling_cur_freq": "1800000",
            "topology/thread_siblings_list": str(n),
        }

    return _write(root, {**_cpus(4, cpu), **_zones(("cpu-thermal", "48199")), THROTTLED: "0"})


def _intel(root: Path) -> Path:
    """Two cores with two threads each, numbered as Intel does."""

    def cpu(n: int) -> Mapping[str, str]:
        return {
            "cpufreq/cpuinfo_max_freq": "4700000",
            "cpufreq/scaling_cur_freq": "3912345",
            "topology/thread_siblings_list": f"{n % 2},{n % 2 + 2}",
            "thermal_throttle/core_throttle_count": "3",
            "thermal_throttle/package_throttle_count": "17",
            "thermal_throttle/core_throttle_max_time_ms": "40",
        }

    return _write(root, {**_cpus(4, cpu), **_zones(("acpitz", "27800"), ("x86_pkg_temp", "61000"))})


def _amd(root: Path) -> Path:
    """Two cores with two threads each, numbered side by side."""
    siblings = {
        f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{n // 2 * 2}-{n // 2 * 2 + 1}"
        for n in range(4)
    }
    return _write(root, siblings)


def _rk3588(root: Path) -> Path:
    """Four little cores, and four big ones of which two come from a better bin."""

    def cpu(n: int) -> Mapping[str, str]:
        khz = "1800000" if n < 4 else "2256000" if n < 6 else "2400000"
        return {
            "cpu_capacity": "530" if n < 4 else "1024",
            "cpufreq/cpuinfo_max_freq": khz,
            "cpufreq/scaling_cur_freq": khz,
            "topology/thread_siblings_list": str(n),
        }

    return _write(root, _cpus(8, cpu))


class Device:
    """A board with a clock of its own. A run takes `milliseconds(n)`; each run heats, each second of sleep cools."""

    def __init__(
        self, root: Path, milliseconds: Callable[[int], float], heat: float = 0.0, limit: float = 80.0
    ) -> None:
        self.root, self.milliseconds, self.heat, self.limit = root, milliseconds, heat, limit
        self.seconds, self.runs, self.celsius, self.ambient = 0.0, 0, 48.0, 45.0
        self.clock = Clock(lambda: self.seconds, self.sleep, self.sleep)
        self.look = partial(read_sensors, (0, 1), root)

    def run(self) -> None:
        slow = 2.0 if self.celsius > self.limit else 1.0
        self.seconds += slow * self.milliseconds(self.runs) / 1e3
        self.runs += 1
        self._set(self.celsius + self.heat)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self._set(self.ambient + (self.celsius - self.ambient) * 0.9**seconds)

    def _set(self, celsius: float) -> None:
        self.celsius = celsius
        if (self.root / "sys/class/thermal").exists():
            # As the Raspberry Pi's firmware says it: soft temperature limit, now and since boot.
            bits = "80008" if celsius > self.limit else "80000"
            _write(self.root, {**_zones(("cpu-thermal", f"{celsius * 1000:.0f}")), THROTTLED: bits})


def _noise(seed: int, count: int, spread: float = 0.05) -> list[float]:
    source = random.Random(seed)
    return [10 * math.exp(source.gauss(0, spread)) for _ in range(count)]


# What machines tell.


def test_a_raspberry_pi_tells_its_temperature_frequency_and_limits(tmp_path: Path) -> None:
    root = _pi4(tmp_path)
    assert read_sensors((0, 1), root) == Reading(48.199, 1800.0, 0, limited=False)
    _write(root, {THROTTLED: "80008"})
    assert read_sensors((0, 1), root) == Reading(48.199, 1800.0, 1, limited=True)
    _write(root, {THROTTLED: "80000"})  # It happened since boot, and is over.
    assert read_sensors((0, 1), root) == Reading(48.199, 1800.0, 1, limited=False)
    _write(root, {THROTTLED: "50001"})  # Only the voltage is low now.
    assert not read_sensors((0, 1), root).limited


def test_a_jetsons_temperature_is_not_that_of_its_blind_sensors(tmp_path: Path) -> None:
    assert temperature_celsius(_write(tmp_path / "off", _zones(("GPU-therm", "-256000")))) is None
    zones = [("AO-therm", "43500"), ("CPU-therm", "41500"), ("PMIC-Die", "100000"), ("GPU-therm", "-256000")]
    assert temperature_celsius(_write(tmp_path, _zones(*zones))) == 43.5


def test_a_sensor_that_cannot_be_read_now_is_passed_over(tmp_path: Path) -> None:
    root = _write(tmp_path, _zones(("cpu-thermal", "47312")))
    (root / "sys/class/thermal/thermal_zone1/temp").mkdir(parents=True)  # Reading it fails, as an Orin's cv0 does.
    assert temperature_celsius(root) == 47.312


def test_an_intel_processor_counts_how_often_it_throttled(tmp_path: Path) -> None:
    root = _intel(tmp_path)
    assert read_sensors((0, 1), root) == Reading(61.0, 3912.345, 40)
    _write(root, {"sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "4"})
    assert throttled([Reading(throttle_count=40), read_sensors((0, 1), root)])
    _write(root, {"sys/devices/system/cpu/cpu3/thermal_throttle/core_throttle_count": "9"})
    assert read_sensors((0, 1), root).throttle_count == 41  # Another CPU's count is another's.


def test_a_machine_without_sensors_tells_nothing_and_never_throttles(tmp_path: Path) -> None:
    assert read_sensors((0,), tmp_path) == Reading()
    assert not throttled([Reading(), Reading()])


def test_the_frequency_is_that_of_the_core_that_works(tmp_path: Path) -> None:
    root = _pi4(tmp_path)
    _write(root, {"sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "600000"})
    assert read_sensors((0, 1), root).frequency_mhz == 1800.0
    assert read_sensors((1,), root).frequency_mhz == 600.0


@pytest.mark.parametrize(("mhz", "held_back"), [(1800.0, False), (1700.0, False), (1600.0, True), (None, False)])
def test_a_frequency_below_nine_tenths_of_the_first_is_throttling(mhz: float | None, held_back: bool) -> None:
    assert throttled([Reading(frequency_mhz=1800.0), Reading(frequency_mhz=mhz), Reading(frequency_mhz=1800.0)]) is (
        held_back
    )


# Which cores.


@pytest.mark.parametrize(
    ("threads", "allowed", "chosen"),
    [
        (1, range(8), (6,)),
        (2, range(8), (6, 7)),
        (4, range(8), (4, 5, 6, 7)),
        (5, range(8), (0, 4, 5, 6, 7)),
        (2, (0, 1, 2, 5), (0, 5)),
        (4, (0, 1), (0, 1)),
    ],
)
def test_big_cores_are_taken_first_among_those_allowed(
    tmp_path: Path, threads: int, allowed: Iterable[int], chosen: tuple[int, ...]
) -> None:
    assert fastest_cpus(threads, set(allowed), _rk3588(tmp_path)) == chosen


@pytest.mark.parametrize(
    ("board", "threads", "allowed", "chosen"),
    [
        (_intel, 2, range(4), (0, 1)),
        (_intel, 3, range(4), (0, 1, 2)),
        (_intel, 2, (1, 2, 3), (1, 2)),
        (_amd, 2, range(4), (0, 2)),
        (_amd, 2, (0, 1, 3), (0, 3)),
    ],
)
def test_whole_cores_are_taken_before_second_threads(
    tmp_path: Path, board: Callable[[Path], Path], threads: int, allowed: Iterable[int], chosen: tuple[int, ...]
) -> None:
    assert fastest_cpus(threads, set(allowed), board(tmp_path)) == chosen


def test_where_nothing_tells_cores_apart_the_first_are_taken(tmp_path: Path) -> None:
    assert fastest_cpus(2, {3, 1, 2}, tmp_path) == (1, 2)


def test_a_thread_is_pinned_while_it_measures_and_free_afterwards() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1) as cpus:
        assert os.sched_getaffinity(0) == set(cpus)
        assert len(cpus) == 1
    assert os.sched_getaffinity(0) == before


def test_a_platform_that_cannot_pin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    with pinned(1) as cpus:
        assert cpus == ()


# What figures say.


def test_the_interval_holds_the_true_median_19_times_of_20() -> None:
    held = [low <= 10 <= high for low, high in (median_interval(sorted(_noise(seed, 60))) for seed in range(1000))]
    assert 0.94 <= sum(held) / len(held) <= 0.985


def test_noise_is_seldom_taken_for_drift() -> None:
    assert sum(drifting(_noise(seed, 100)) for seed in range(500)) <= 5


def test_a_slow_down_is_drift_and_so_is_a_speed_up() -> None:
    slower = [value * (1 + index / 500) for index, value in enumerate(_noise(1, 100))]
    assert drifting(slower)
    assert drifting(slower[::-1])


def test_a_slow_down_too_small_to_matter_is_no_drift() -> None:
    assert not drifting([10.0] * 50 + [10.2] * 50)


def test_few_repeats_do_not_tell_of_drift() -> None:
    assert not drifting([10.0, 20.0])
    assert not drifting([10.0] * 8 + [20.0] * 8)


def test_repeats_that_still_become_faster_are_not_warm() -> None:
    assert not warm([20.0 - n / 2 for n in range(15)])
    assert not warm([10.0] * 10 + [9.0] * 5)
    assert not warm([11.0] * 5 + [10.0] * 10)
    assert not warm([10.0] * 14)
    assert warm([10.0] * 15)


# The course of a measurement.


def test_repeats_count_only_once_they_no_longer_become_faster(tmp_path: Path) -> None:
    device = Device(tmp_path, lambda n: 10 + 20 * 0.9**n)
    series = measure([device.run], Effort(warm_up_repeats=5), device.look, device.clock).series
    assert max(series.times[0]) < 10.2


def test_warm_up_takes_no_more_than_its_share_of_the_budget(tmp_path: Path) -> None:
    device = Device(tmp_path, lambda n: 200 * 0.99**n)
    Series([device.run], Effort(budget_seconds=10.0), device.look, device.clock).warm_up()
    assert 2.0 <= device.seconds <= 2.2


def test_repeats_end_once_the_median_is_known(tmp_path: Path) -> None:
    device = Device(tmp_path, lambda n: 10 + n % 3 / 100)
    timing = describe(measure([device.run], Effort(), device.look, device.clock), ())
    assert (timing.settled, timing.count, timing.attempts) == (True, 50, 1)
    assert timing.p50 == pytest.approx(10.01)


def test_repeats_end_with_the_budget_and_say_that_the_median_is_not_known(tmp_path: Path) -> None:
    times = _noise(3, 2000, spread=0.5)
    device = Device(tmp_path, lambda n: times[n])
    effort = Effort(max_repeats=10_000, budget_seconds=4.0)
    timing = describe(measure([device.run], effort, device.look, device.clock), ())
    assert not timing.settled
    assert not timing.drifting
    assert 4.0 <= device.seconds <= 4.1


def test_several_runs_take_turns_in_random_order(tmp_path: Path) -> None:
    device = Device(tmp_path, lambda n: 1.0)
    taken: list[str] = []

    def run(name: str) -> None:
        device.run()
        taken.append(name)

    series = Series([partial(run, name) for name in "ab"], Effort(max_repeats=20), device.look, device.clock)
    series.go_on(deadline=math.inf)
    pairs = {"".join(taken[at : at + 2]) for at in range(0, len(taken), 2)}
    assert pairs == {"ab", "ba"}


def test_a_device_that_throttles_cools_down_and_is_measured_again(tmp_path: Path) -> None:
    def milliseconds(n: int) -> float:
        device.heat = 0.5 if n < 60 else 0.02  # Other work heats the board, and ends.
        return 10.0 + n % 3 / 10

    device = Device(_pi4(tmp_path), milliseconds, limit=75.0)
    effort = Effort(max_repeats=100)
    timing = describe(measure([device.run], effort, device.look, device.clock), (0, 1))
    assert timing.attempts == 2
    assert not timing.throttled
    assert timing.p50 == pytest.approx(10.1)
    assert 0 < timing.cooled_seconds < 30.0
    assert timing.temperature_begin_celsius is not None
    assert timing.temperature_begin_celsius < 55.0
    assert timing.temperature_max_celsius == timing.temperature_celsius
    assert timing.frequency_begin_mhz == timing.frequency_min_mhz == timing.frequency_end_mhz == 1800.0


def test_a_device_that_throttles_again_says_so(tmp_path: Path) -> None:
    device = Device(_pi4(tmp_path), lambda n: 10.0, heat=1.0, limit=60.0)
    timing = describe(measure([device.run], Effort(), device.look, device.clock), (0, 1))
    assert (timing.attempts, timing.throttled) == (2, True)
    assert timing.cooled_seconds > 0
    assert timing.temperature_max_celsius is not None
    assert timing.temperature_max_celsius > 60.0


def test_a_drifting_measurement_is_given_up_half_way_and_taken_again(tmp_path: Path) -> None:
    noise = _noise(5, 2000)

    def milliseconds(n: int) -> float:
        return noise[n] + (n / 20 if device.seconds < 5.5 else 0)

    device = Device(tmp_path, milliseconds)
    effort = Effort(max_repeats=10_000, budget_seconds=10.0)
    timing = describe(measure([device.run], effort, device.look, device.clock), ())
    assert (timing.attempts, timing.drifting) == (2, False)
    assert timing.cooled_seconds == 0.0  # Nothing to be read that could be waited for.
    assert device.seconds <= 10.1


def test_a_measurement_that_drifts_twice_says_so(tmp_path: Path) -> None:
    device = Device(tmp_path, lambda n: 10.0 + n / 20 + n % 3)
    timing = describe(measure([device.run], Effort(budget_seconds=60.0), device.look, device.clock), ())
    assert (timing.attempts, timing.drifting) == (2, True)
    assert timing.drift_ratio > 1.03


def test_a_model_too_slow_for_a_second_attempt_is_reported_with_its_drift(tmp_path: Path) -> None:
    device = Device(tmp_path, lambda n: 400.0 + 20 * n)
    timing = describe(measure([device.run], Effort(), device.look, device.clock), ())
    assert (timing.attempts, timing.drifting, timing.count) == (1, True, 20)


def test_percentiles_are_those_of_numpy(tmp_path: Path) -> None:
    device = Device(tmp_path, lambda n: 10 + n % 7 + n % 5 / 10)
    measured = measure([device.run], Effort(max_repeats=77), device.look, device.clock)
    timing = describe(measured, ())
    assert (timing.p50, timing.p90, timing.p99) == pytest.approx(np.percentile(measured.series.times[0], [50, 90, 99]))


def test_one_repeat_is_enough_to_describe(tmp_path: Path) -> None:
    device = Device(tmp_path, lambda n: 9.0)
    effort = Effort(min_repeats=1, max_repeats=1)
    timing = describe(measure([device.run], effort, device.look, device.clock), ())
    assert timing.p50 == timing.p99 == timing.mean == pytest.approx(9.0)
    assert (timing.count, timing.settled, timing.drifting) == (1, False, False)


# Cooling down.


def test_cooling_ends_when_the_device_is_as_warm_as_at_rest(tmp_path: Path) -> None:
    device = Device(_pi4(tmp_path), lambda n: 1.0)
    device._set(70.0)
    waited = cool_down(device.look, Reading(celsius=50.0), 60.0, device.clock)
    assert 0 < waited < 60.0
    assert 52.0 < device.celsius <= 53.0


def test_cooling_ends_when_the_device_cools_no_more(tmp_path: Path) -> None:
    device = Device(_pi4(tmp_path), lambda n: 1.0)
    device.ambient = 60.0  # The sun came out.
    device._set(61.0)
    assert cool_down(device.look, Reading(celsius=50.0), 600.0, device.clock) < 60.0


def test_cooling_ends_with_its_budget(tmp_path: Path) -> None:
    device = Device(_pi4(tmp_path), lambda n: 1.0)
    device._set(90.0)
    assert cool_down(device.look, Reading(celsius=48.0), 4.0, device.clock) == pytest.approx(4.0, abs=0.2)


def test_cooling_goes_on_until_the_frequency_is_back(tmp_path: Path) -> None:
    root = _rk3588(tmp_path)
    seconds = 0.0

    def sleep(more: float) -> None:
        nonlocal seconds
        seconds += more
        khz = "2400000" if seconds >= 7 else "1200000"
        _write(root, {"sys/devices/system/cpu/cpu6/cpufreq/scaling_cur_freq": khz})

    sleep(0)
    clock = Clock(lambda: seconds, sleep, sleep)
    waited = cool_down(partial(read_sensors, (6,), root), Reading(frequency_mhz=2400.0), 30.0, clock)
    assert 7.0 <= waited < 8.5


def test_a_device_that_is_at_rest_does_not_wait(tmp_path: Path) -> None:
    device = Device(_pi4(tmp_path), lambda n: 1.0)
    assert cool_down(device.look, Reading(celsius=47.0), 30.0, device.clock) == 0.0
    assert cool_down(device.look, Reading(), 30.0, device.clock) == 0.0


def test_a_row_of_measurements_cools_down_to_its_coolest() -> None:
    rest = Rest()
    assert rest.begin(0.0, 45.0) == 45.0
    rest.end(10.0)
    assert rest.begin(11.0, 58.0) == 45.0
    rest.end(20.0)
    assert rest.begin(21.0, 44.0) == 44.0
    rest.end(30.0)
    assert rest.begin(1000.0, 52.0) == 52.0  # Noon: as cool as it gets.
    assert Rest().begin(0.0, None) is None


# For real.


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "model.onnx"
    write_network(path, digits())
    return path


def _profiled(tmp_path: Path, **spec: Any) -> dict[str, Any]:
    path = tmp_path / "spec.json"
    effort = {"warm_up_repeats": 5, "min_repeats": 20, "max_repeats": 100, "budget_seconds": 5.0}
    path.write_text(json.dumps({"threads": 1, "memory_bytes": 0, "rest_celsius": None, "effort": effort, **spec}))
    done = subprocess.run(
        [sys.executable, "-m", "milonga_agent.profile", str(path)], capture_output=True, text=True, timeout=60
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("engine", ["onnxruntime", "reference"])
def test_a_real_network_is_measured_on_one_core_and_told_to_the_hub(tmp_path: Path, network: Path, engine: str) -> None:
    said = _profiled(tmp_path, model=str(network), engine=engine)
    result = measurement_result("m-1", said)
    assert result.error == ""
    assert 0 < result.latency_ms.p50 <= result.latency_ms.p90 <= result.latency_ms.p99 < 1000
    assert 20 <= result.latency_ms.count <= 100
    assert result.attempts in (1, 2)
    assert list(result.pinned_cpus) == list(fastest_cpus(1, os.sched_getaffinity(0)))
    assert 10 * 2**20 < result.peak_memory_bytes < 2**31
    assert result.HasField("settled")
    here = temperature_celsius()
    assert math.isnan(result.temperature_begin_celsius) is (here is None)


def test_a_network_that_cannot_be_measured_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    said = _profiled(tmp_path, model=str(tmp_path / "broken.onnx"), engine="onnxruntime")
    assert "cannot load broken.onnx" in measurement_result("m-1", said).error


def test_a_real_network_on_a_board_that_is_held_back_is_measured_twice_and_flagged(
    tmp_path: Path, network: Path
) -> None:
    root = _write(_pi4(tmp_path), {THROTTLED: "e000e"})
    timing = profile(network, "onnxruntime", 1, QUICK, root=root)
    assert (timing.attempts, timing.throttled) == (2, True)
    assert (timing.temperature_celsius, timing.frequency_min_mhz) == (48.199, 1800.0)


def test_neither_numpy_nor_an_engine_is_loaded_before_the_process_is_pinned() -> None:
    told = "import sys, milonga_agent.profile; print({'numpy', 'onnxruntime', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_threads_of_an_engine_stay_on_the_pinned_cores(network: Path) -> None:
    tasks = Path("/proc/self/task")
    before = set(tasks.iterdir())
    with pinned(1) as cpus:
        runtime = load("onnxruntime", network, 2)
        made = set(tasks.iterdir()) - before
        assert all(os.sched_getaffinity(int(thread.name)) == set(cpus) for thread in made)
        assert made
    del runtime
