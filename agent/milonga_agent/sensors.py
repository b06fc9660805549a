"""Read what the machine says of its own speed and heat."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# What a file system's root is for tests: a folder that looks like a device's.
ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"
# No sensor at all: a Jetson says 100 °C there, hot or cold (github.com/balena-os/balena-jetson/issues/142).
_BLIND_ZONES = frozenset(["PMIC-Die"])
# A zone that is switched off says -256 °C on a Jetson.
_COLDEST_CELSIUS = -60.0
# Bits of the Raspberry Pi's get_throttled: frequency capped, throttled, soft temperature limit. Under-voltage (bit 0)
# is left out: where it slows, the frequency is capped too. 16 bits higher stands what has happened since boot.
_PI_LIMITS, _PI_PAST_SHIFT = 0b1110, 16
_PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def first_line(*paths: str) -> str:
    """Return the first line of the first of these files that can be read, empty for none."""
    for path in paths:
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n ").splitlines()[0]
        except (OSError, IndexError):
            continue
    return ""


@dataclass(frozen=True)
class Reading:
    """What the machine says of its own speed at one moment; None where it has no such sensor."""

    celsius: float | None = None
    frequency_mhz: float | None = None
    # Only its growth tells: times that kernel or firmware throttled these CPUs.
    throttle_count: int = 0
    # The firmware holds the CPUs back now.
    limited: bool = False

    def slower_than(self, before: Reading, share: float) -> bool:
        """Return whether the frequency is below this share of what it was."""
        now, then = self.frequency_mhz, before.frequency_mhz
        return now is not None and then is not None and now < share * then

    def hotter_than(self, other: Reading, celsius: float) -> bool:
        """Return whether this is hotter by more than so much."""
        return self.celsius is not None and other.celsius is not None and self.celsius > other.celsius + celsius


def read_sensors(cpus: Collection[int] = (), root: Path = ROOT) -> Reading:
    """Return what can be read of these CPUs, or of all."""
    folders = [root / _CPUS / f"cpu{cpu}" for cpu in cpus] or list((root / _CPUS).glob("cpu[0-9]*"))
    bits = next(_numbers([root / _PI_THROTTLED], base=16), 0)
    past = bin(bits >> _PI_PAST_SHIFT & _PI_LIMITS).count("1")
    return Reading(
        celsius=temperature_celsius(root),
        frequency_mhz=_frequency_mhz(folders),
        throttle_count=past + sum(_numbers(path for cpu in folders for path in cpu.glob("thermal_throttle/*_count"))),
        limited=bool(bits & _PI_LIMITS),
    )


def _frequency_mhz(folders: Sequence[Path]) -> float | None:
    """Return the fastest CPU's: those with nothing to do clock down by themselves."""
    khz = max(_numbers(cpu / "cpufreq/scaling_cur_freq" for cpu in folders), default=0)
    return khz / 1000.0 if khz else None


def tells_throttling(root: Path = ROOT) -> bool:
    """Return whether anything here says that CPUs were held back."""
    return (root / _PI_THROTTLED).exists() or any((root / _CPUS).glob("cpu[0-9]*/thermal_throttle/*_count"))


def power_watts(root: Path = ROOT) -> float | None:
    """Return what the machine draws: the largest rail that is measured, which is the board's own, or what its battery gives; else None.

    Boards with an INA3221 (Jetson) tell volts and amperes of each rail, others watts.
    """
    rails = [value / 1e6 for value in _numbers((root / "sys/class/hwmon").glob("hwmon*/power*_input"))]
    for current in (root / "sys/class/hwmon").glob("hwmon*/curr*_input"):
        pair = [*_numbers([current, current.with_name(current.name.replace("curr", "in"))])]
        if len(pair) == 2:  # Milliamperes and millivolts.
            rails.append(pair[0] * pair[1] / 1e6)
    for battery in (root / "sys/class/power_supply").glob("*"):
        if first_line(str(battery / "status")) == "Discharging":
            rails += [value / 1e6 for value in _numbers([battery / "power_now"])]
    return max((watts for watts in rails if watts > 0), default=None)


def temperature_celsius(root: Path = ROOT) -> float | None:
    """Return the hottest sensor, or None where there is none."""
    zones = (root / "sys/class/thermal").glob("thermal_zone*")
    found = _numbers(zone / "temp" for zone in zones if first_line(str(zone / "type")) not in _BLIND_ZONES)
    return max((value / 1000.0 for value in found if value / 1000.0 > _COLDEST_CELSIUS), default=None)


def fastest_cpus(count: int, allowed: Collection[int], root: Path = ROOT) -> tuple[int, ...]:
    """Return as many of the allowed CPUs, the fastest first, and no core's second thread while whole cores are left."""
    folder = root / _CPUS

    def slowness(cpu: int) -> tuple[int, int, int, int]:
        siblings = _cpu_list(first_line(str(folder / f"cpu{cpu}/topology/thread_siblings_list")))
        rank = sum(1 for other in siblings if other < cpu and other in allowed)
        # Capacity (of 1024) counts what a core does in a cycle too; kernels without a scale for it leave it out.
        capacity = next(_numbers([folder / f"cpu{cpu}/cpu_capacity"]), 0)
        khz = next(_numbers([folder / f"cpu{cpu}/cpufreq/cpuinfo_max_freq"]), 0)
        return rank, -capacity, -khz, cpu

    return tuple(sorted(sorted(allowed, key=slowness)[:count]))


def _cpu_list(text: str) -> list[int]:
    """Return the CPUs of a list as the kernel writes it: 0-3,8."""
    found: list[int] = []
    for part in text.split(",") if text else ():
        low, _, high = part.partition("-")
        found.extend(range(int(low), int(high or low) + 1))
    return found


def _numbers(paths: Iterable[Path], base: int = 10) -> Iterator[int]:
    """Return the whole number in each file that can be read."""
    for path in paths:
        try:
            yield int(path.read_text(encoding="utf-8"), base)
        except (OSError, ValueError):
            continue
