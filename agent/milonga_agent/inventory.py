"""Probe the machine. Nothing is asked of the user, and no engine is imported.

In a process of its own (probing.py): what lists the packages that are installed takes 2 MB that the daemon does without.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from milonga.plugins import Found
from milonga.v1 import devices_pb2

from milonga_agent import hardware
from milonga_agent.limits import Limits
from milonga_agent.plugged import Engine, plugged
from milonga_agent.sensors import ROOT, first_line
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
        machine_id=first_line("/etc/machine-id", "/var/lib/dbus/machine-id") or platform.node(),
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
        accelerators=hardware.accelerators(ROOT),
        compatible=[] if board else hardware.compatible(ROOT),
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
    tree = first_line("/proc/device-tree/model", "/sys/firmware/devicetree/base/model")
    return tree or first_line("/sys/class/dmi/id/product_name")


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
    group = first_line("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
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
