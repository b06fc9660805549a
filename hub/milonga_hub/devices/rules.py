"""What a device type is called, when a device counts as online, what names and labels may look like."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from milonga_hub.devices.models import Assignment, DeviceView, Inventory
from milonga_hub.errors import InvalidInput

NAME_LENGTH = 63
BUILT_IN_KEYS = ("name", "type", "simulated", "state")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE_LENGTH = 253
_MIB = 1 << 20


def check_name(name: str) -> None:
    """Raise InvalidInput unless the name can stand in a topic, a path and a host name."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot be a device's name; use 1 to {NAME_LENGTH} of a-z, 0-9 and '-', "
            "beginning and ending with a letter or digit"
        )


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidInput for a key or value that no selector could name."""
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise InvalidInput(f"{key!r} cannot be a label's key; use 1 to 63 letters, digits and . _ / -")
        if key in BUILT_IN_KEYS:
            raise InvalidInput(f"{key!r} is built in and cannot be a label; choose another key")
        if len(value) > _LABEL_VALUE_LENGTH or not all(character.isprintable() for character in value):
            raise InvalidInput(f"label {key!r}: a value has at most {_LABEL_VALUE_LENGTH} printable characters")


def merged(labels: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Return the labels with the changes made; an empty value removes its key."""
    return {key: value for key, value in {**labels, **changes}.items() if value}


def attributes(device: DeviceView) -> dict[str, str]:
    """Return what selectors see of a device: its labels and the built-in keys."""
    return {
        **device.labels,
        "name": device.name,
        "type": device.device_type,
        "simulated": "true" if device.simulated else "false",
        "state": device.state.value.lower(),
    }


def fingerprint(inventory: Inventory, simulated: bool) -> str:
    """Return what two devices share exactly when a build for one runs, and runs alike, on the other."""
    parts = {
        "architecture": inventory.architecture,
        "board": inventory.board,
        "cpu_model": inventory.cpu_model,
        "cpu_features": sorted(set(inventory.cpu_features)),
        "threads": inventory.threads,
        "cores": inventory.cores,
        "memory_mib": memory_bucket_bytes(inventory.memory_bytes) // _MIB,
        "engines": sorted([engine.name, _minor(engine.version)] for engine in inventory.engines),
        "accelerators": sorted([each.kind, each.model] for each in inventory.accelerators),
        "simulated": simulated,
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def memory_bucket_bytes(memory_bytes: int) -> int:
    """Round so that two boards of one kind agree: kernels reserve a little more or less from release to release.

    Steps are an eighth of the power of two below, and at least 64 MiB.
    """
    step = max(64 * _MIB, (1 << max(memory_bytes, 1).bit_length()) // 16)
    return (memory_bytes + step // 2) // step * step


def type_name(inventory: Inventory, taken: Collection[str]) -> str:
    """Return a free name for the type: its board, else its processor and threads, and a number where that is taken."""
    base = _slug(inventory.board)
    if not base:
        base = f"{_slug(inventory.cpu_model) or _slug(inventory.architecture) or 'unknown'}-{inventory.threads}t"
    number = 1
    name = base
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def _slug(text: str) -> str:
    # "Intel(R) Xeon(R) CPU @ 2.20GHz" is intel-xeon-cpu-2-20ghz; 48 leaves room for "-{threads}t-{number}".
    plain = re.sub(r"\((?:r|tm|c)\)", " ", text.lower().replace("\0", ""))
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48].strip("-")


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def is_online(seen_at: datetime | None, now: datetime, heartbeat_seconds: float, missed_heartbeats: int) -> bool:
    """Say whether the newest sign of life is younger than the heartbeats that may be missed."""
    return seen_at is not None and now - seen_at <= timedelta(seconds=heartbeat_seconds * missed_heartbeats)


def is_behind(assignment: Assignment, generation: int, active_bundle: str) -> bool:
    """Say whether the device, as it reports itself, has not (or not only) reached its newest assignment."""
    return generation < assignment.generation or active_bundle != assignment.bundle


def next_generation(assignment: Assignment | None, reported_generation: int) -> int:
    """Return a generation above all that the hub gave out and the device has seen, even by a hub with another database."""
    return max(assignment.generation if assignment else 0, reported_generation) + 1


def machine_of(device: DeviceView) -> str:
    """Return what devices on the same machine share: they would disturb each other's measurements."""
    return device.inventory.machine_id or f"device:{device.name}"
