"""What simulated machines say of themselves: the hardware of the known boards, with typical figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from milonga_hub.devices.known import KnownType
from milonga_hub.errors import InvalidInput
from milonga_hub.simulation.spec import MachineSpec

_MIB = 1 << 20
_CORES = 4
_MEMORY_MIB = 8192
# Recent ones; a device without its engine is told nothing to run.
_VERSIONS = {
    "litert": "2.1.0",
    "ncnn": "1.0.20250503",
    "onnxruntime": "1.26.0",
    "openvino": "2026.1.0",
    "tensorrt": "10.13.0",
    "tvm": "0.27.0",
}


def machines(wanted: Sequence[MachineSpec], known: Sequence[KnownType]) -> list[dict[str, Any]]:
    """Return the machines as the simulating process is told of them. Raises InvalidInput for a type that is none."""
    by_name = {each.name: each for each in known}
    unknown = [each.type for each in wanted if each.type not in by_name]
    if unknown:
        raise InvalidInput(f"no device type {', '.join(unknown)}; there are: {', '.join(by_name)}")
    return [
        {
            "name": each.type,
            "share": each.share,
            "latency_ms": each.latency_ms,
            "power_watts": each.power_watts,
            "labels": each.labels,
            "inventory": inventory(by_name[each.type]),
        }
        for each in wanted
    ]


def inventory(known: KnownType) -> dict[str, Any]:
    """Return an inventory (by the protocol's field names) that the hub recognises as this type."""
    spec = known.spec
    boards = spec.match.boards
    sizes = spec.memory_mib or [_MEMORY_MIB]
    accelerator = spec.match.accelerator
    return {
        "board": boards[0].replace("-", " ") if boards else spec.title,
        "architecture": spec.architecture,
        "cpu_model": f"{spec.title} (simulated)",
        "cores": _CORES,
        "threads": _CORES,
        "memory_bytes": sizes[len(sizes) // 2] * _MIB,
        "disk_free_bytes": 16_000 * _MIB,
        "os": "simulated",
        "compatible": spec.match.compatible[:1],
        "engines": [
            {
                "name": each.engine,
                "version": _VERSIONS.get(each.engine, ""),
                "precisions": [str(precision) for precision in each.precisions],
            }
            for each in spec.engines
        ],
        "accelerators": [{"kind": "npu", "model": accelerator}] if accelerator else [],
    }
