"""Probe the machine. Nothing is asked of the user, and no engine is imported."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from milonga.plugins import Found
from milonga.v1 import devices_pb2

from milonga_agent import hardware
from milonga_agent.limits import Limits
from milonga_agent.plugged import Engine, plugged
from milonga_agent.zone import time_zone

# Engine -> (distribution, precisions); "a|b": either. One entry for each file in runtimes/; a test compares the two.
ENGINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "litert": ("ai-edge-litert", ("fp32", "int8")),
    "ncnn": ("ncnn", ("fp32", "fp16")),
    "onnxruntime": ("onnxruntime", ("fp32", "fp16", "int8")),
    "openvino": ("openvino", ("fp32", "fp16", "int8")),
    "reference": ("onnx", ("fp32",)),
    "tensorrt": ("tensorrt|tensorrt-rtx", ("fp32", "fp16", "int8")),
    "tvm": ("apache-tvm", ("fp32",)),
}
# What a file system's root is for tests: a folder that looks like a device's.
_ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"
# No sensor at all: a Jetson says 100 °C there, hot or cold (github.com/balena-os/balena-jetson/issues/142).
_BLIND_ZONES = frozenset(["PMIC-Die"])
# A zone that is switched off says -256 °C on a Jetson.
_COLDEST_CELSIUS = -60.0
# Bits of the Raspberry Pi's get_throttled: frequency capped, throttled, soft temperature limit. Under-voltage (bit 0)
# is left out: where it slows, the frequency is capped too. 16 bits higher stands what has happened since boot.
_PI_LIMITS, _PI_PAST_SHIFT = 0b1110, 16
# Vector instructions decide how fast a network runs; other flags do not.
_TELLING_FEATURES = frozenset(
    [
        "neon",
        "asimd",
        "asimddp",
        "asimdhp",
        "sve",
        "i8mm",
        "bf16",
        "sse4_2",
        "avx",
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx_vnni",
        "amx_int8",
        "amx_bf16",
        "f16c",
        "fma",
    ]
)


def probe(
    limits: Limits, engines: Sequence[str] | None = None, board: str = "", folder: Path = Path()
) -> devices_pb2.Inventory:
    """Return what this machine is. `engines` narrows what is offered, `board` stands in for the real board."""
    return devices_pb2.Inventory(
        hostname=platform.node(),
        machine_id=_first_line("/etc/machine-id", "/var/lib/dbus/machine-id") or platform.node(),
        board=board or _board(),
        architecture=platform.machine(),
        cpu_model=_cpu_model(),
        cpu_features=sorted(_cpu_features() & _TELLING_FEATURES),
        cores=len(limits.cpus) or len(os.sched_getaffinity(0)),
        threads=limits.threads,
        memory_bytes=_memory_bytes(limits),
        disk_free_bytes=shutil.disk_usage(str(folder)).free,
        os=_os_name(),
        kernel=platform.release(),
        python=platform.python_version(),
        engines=list(_engines(engines)),
        accelerators=hardware.accelerators(_ROOT),
        compatible=[] if board else hardware.compatible(_ROOT),
        thermal_zones=sorted(path.read_text().strip() for path in _thermal_zones()),
        time_zone=time_zone(),
    )


def known_engines() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return ENGINES, and after them those that plug-ins bring."""
    others = plugged_engines().values
    return {**ENGINES, **{name: (one.distribution, one.precisions) for name, one in others.items()}}


def plugged_engines() -> Found[Engine]:
    """Return the engines that plug-ins bring, and what is wrong with those that bring none."""
    return plugged(tuple(ENGINES))


def _engines(wanted: Sequence[str] | None) -> Iterator[devices_pb2.Engine]:
    for name, (_, precisions) in known_engines().items():
        if wanted is not None and name not in wanted:
            continue
        version = engine_version(name)
        if version:
            yield devices_pb2.Engine(name=name, version=version, precisions=list(precisions))


def engine_version(engine: str) -> str:
    """Return the version of the engine that is installed, empty for none."""
    for distribution in known_engines()[engine][0].split("|"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _board() -> str:
    """Return the board from the device tree (ARM) or the firmware (x86)."""
    tree = _first_line("/proc/device-tree/model", "/sys/firmware/devicetree/base/model")
    return tree or _first_line("/sys/class/dmi/id/product_name")


def _first_line(*paths: str) -> str:
    for path in paths:
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n ").splitlines()[0]
        except (OSError, IndexError):
            continue
    return ""


def _cpuinfo() -> dict[str, str]:
    """Return the first value of each key of /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def _cpu_model() -> str:
    known = _cpuinfo()
    arm = f"implementer {known['CPU implementer']} part {known['CPU part']}" if "CPU part" in known else ""
    return known.get("model name") or arm or platform.processor()


def _cpu_features() -> frozenset[str]:
    known = _cpuinfo()
    return frozenset((known.get("flags") or known.get("Features") or "").split())


def _memory_bytes(limits: Limits) -> int:
    """Return the smallest of the machine's memory, the control group's limit and the operator's."""
    sizes: list[int] = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    group = _first_line("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    if group.isdigit():
        sizes.append(int(group))
    if limits.memory_bytes:
        sizes.append(limits.memory_bytes)
    return min(sizes)


def _os_name() -> str:
    for line in _lines("/etc/os-release"):
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _thermal_zones() -> list[Path]:
    return list(Path("/sys/class/thermal").glob("thermal_zone*/type"))


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


def read_sensors(cpus: Collection[int] = (), root: Path = _ROOT) -> Reading:
    """Return what can be read of these CPUs, or of all."""
    folders = [root / _CPUS / f"cpu{cpu}" for cpu in cpus] or list((root / _CPUS).glob("cpu[0-9]*"))
    bits = next(_numbers([root / "sys/devices/platform/soc/soc:firmware/get_throttled"], base=16), 0)
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


def temperature_celsius(root: Path = _ROOT) -> float | None:
    """Return the hottest sensor, or None where there is none."""
    zones = (root / "sys/class/thermal").glob("thermal_zone*")
    found = _numbers(zone / "temp" for zone in zones if _first_line(str(zone / "type")) not in _BLIND_ZONES)
    return max((value / 1000.0 for value in found if value / 1000.0 > _COLDEST_CELSIUS), default=None)


def fastest_cpus(count: int, allowed: Collection[int], root: Path = _ROOT) -> tuple[int, ...]:
    """Return as many of the allowed CPUs, the fastest first, and no core's second thread while whole cores are left."""
    folder = root / _CPUS

    def slowness(cpu: int) -> tuple[int, int, int, int]:
        siblings = _cpu_list(_first_line(str(folder / f"cpu{cpu}/topology/thread_siblings_list")))
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
