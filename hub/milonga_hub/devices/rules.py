"""What a device type is called, when a device counts as online, what names and labels may look like."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from milonga_compiler.engines import ENGINES

from milonga_hub.devices.known import KnownType, Match
from milonga_hub.devices.models import Assignment, DeviceState, DeviceView, Engine, Inventory, Verification
from milonga_hub.errors import InvalidInput
from milonga_hub.times import zone

NAME_LENGTH = 63
BUILT_IN_KEYS = ("name", "type", "simulated", "state")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
_VERSION = re.compile(r"models/[^/\s]+/versions/[^/\s]+")
# The label that stands in place of what the machine is set to: maintenance windows count in it.
_TIME_ZONE = "time_zone"
_LABEL_VALUE_LENGTH = 253
_MIB = 1 << 20
# Nothing says that a device need not renew.
_AT_ONCE = timedelta(seconds=1)
# A heartbeat may wait for a moment on its way; of a clock that is hours off, minutes are not told anew.
_CLOCK_STEP_SECONDS, _CLOCK_STEP_SHARE = 5.0, 0.1
# Ten thousand years, more than which no clock can tell.
_FARTHEST_CLOCK_SECONDS = 3.2e11
# Of two machines with one identity, each comes back after a few of the other's starts.
_KEPT_BOOTS = 8


def check_name(name: str) -> None:
    """Raise InvalidInput unless the name can stand in a topic, a path and a host name."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot be a device's name; use 1 to {NAME_LENGTH} of a-z, 0-9 and '-', "
            "beginning and ending with a letter or digit"
        )


def check_version(name: str) -> None:
    """Raise InvalidInput for what names no version of a model."""
    if not _VERSION.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is no version; write models/MODEL/versions/NUMBER, such as models/digits/versions/3"
        )


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidInput for a key or value that no selector could name, and for a time zone that there is not."""
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise InvalidInput(f"{key!r} cannot be a label's key; use 1 to 63 letters, digits and . _ / -")
        if key in BUILT_IN_KEYS:
            raise InvalidInput(f"{key!r} is built in and cannot be a label; choose another key")
        if len(value) > _LABEL_VALUE_LENGTH or not all(character.isprintable() for character in value):
            raise InvalidInput(f"label {key!r}: a value has at most {_LABEL_VALUE_LENGTH} printable characters")
    if name := labels.get(_TIME_ZONE):
        zone(name)


def noted_clock(before: float | None, ahead_seconds: float | None) -> float | None:
    """Return how far ahead a device's clock is to be noted as being, None where it does not tell.

    It is what was noted before, unless it is clearly another: then nothing is written at most heartbeats, and what compares it with a
    limit does not change its mind at each of them.
    """
    if ahead_seconds is None:
        return None
    if before is not None and abs(ahead_seconds - before) <= max(_CLOCK_STEP_SECONDS, _CLOCK_STEP_SHARE * abs(before)):
        return before
    return round(min(max(ahead_seconds, -_FARTHEST_CLOCK_SECONDS), _FARTHEST_CLOCK_SECONDS), 1)


def renew_after(lifetime: timedelta, left: timedelta, jitter: float) -> timedelta:
    """Return when to renew a certificate: with half to a quarter of its life left, so that a fleet spreads out.

    `jitter` is 0 to 1. An agent that cannot renew then has days to try again. One that is good for longer than the hub
    gives out by now is renewed at once.
    """
    if left > lifetime:
        return _AT_ONCE
    return max(_AT_ONCE, left - lifetime * (0.5 - 0.25 * jitter))


def jitter(name: str) -> float:
    """Return a number from 0 to 1 that is always the same for the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 0xFFFFFFFF


def may_return(expired_at: datetime | None, absence: timedelta, now: datetime) -> bool:
    """Say whether a device with its own key may come back by itself, or was away for longer than anybody looked after."""
    return expired_at is not None and now <= expired_at + absence


def is_clone(boot_ids: Sequence[str], boot_id: str) -> bool:
    """Say whether another machine has this device's identity: an agent that started anew never goes back to an old start."""
    return boot_id in boot_ids[:-1]


def with_boot(boot_ids: Sequence[str], boot_id: str) -> list[str]:
    """Return the device's starts with this one as the newest."""
    return [*(known for known in boot_ids if known != boot_id), boot_id][-_KEPT_BOOTS:]


def labels_of_text(text: str) -> dict[str, str]:
    """Return the labels of "site=busan, role=canary"; an empty value stands for one to take away. Raises InvalidInput."""
    found = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if part.strip() and not equals:
            raise InvalidInput(f"{part.strip()!r} is not a label; write KEY=VALUE, several with commas between them")
        if part.strip():
            found[key.strip()] = value.strip()
    return found


def merged(labels: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Return the labels with the changes made; an empty value removes its key."""
    return {key: value for key, value in {**labels, **changes}.items() if value}


class Named(Protocol):
    """What selectors ask of a device."""

    @property
    def name(self) -> str: ...
    @property
    def device_type(self) -> str: ...
    @property
    def state(self) -> DeviceState: ...
    @property
    def simulated(self) -> bool: ...
    @property
    def labels(self) -> dict[str, str]: ...


def attributes(device: Named) -> dict[str, str]:
    """Return what selectors see of a device: its labels and the built-in keys."""
    return {
        **device.labels,
        "name": device.name,
        "type": device.device_type,
        "simulated": "true" if device.simulated else "false",
        "state": device.state.value.lower(),
    }


def time_zone(labels: Mapping[str, str], inventory: Inventory) -> str:
    """Return the zone in which a device's hours count: what its label says, else what its machine says."""
    return labels.get(_TIME_ZONE) or inventory.time_zone


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


def type_name(inventory: Inventory, taken: Collection[str], known: KnownType | None = None) -> str:
    """Return a free name for the type: that of its known board, else its board's or processor's, numbered where taken.

    An entry that holds for any board of an architecture gives no name.
    """
    base = known.name if known and known.spec.match.boards else _slug(inventory.board)
    if not base:
        base = f"{_slug(inventory.cpu_model) or _slug(inventory.architecture) or 'unknown'}-{inventory.threads}t"
    number = 1
    name = base
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def known_type(inventory: Inventory, entries: Sequence[KnownType]) -> KnownType | None:
    """Return the entry that tells most of the inventory, or None where none matches it."""
    ranked = [(rank, entry) for entry in entries if (rank := _specificity(inventory, entry.spec.match)) is not None]
    return max(ranked, key=lambda pair: pair[0], default=(None, None))[1]


def _specificity(inventory: Inventory, match: Match) -> tuple[int, int, int] | None:
    """Return how much the entry asks of the inventory, or None where it does not match.

    The longer name of a board beats a shorter one, any name beats compatible hardware, and that beats an architecture; of
    two entries for one board, that with an accelerator wins. Of a board that is named no architecture is asked: simulated
    boards have that of their host.
    """
    accelerators = {each.model for each in inventory.accelerators}
    if match.accelerator and match.accelerator not in accelerators:
        return None
    words = f"-{_slug(inventory.board)}-"
    board = max((len(name) for name in match.boards if f"-{_slug(name)}-" in words), default=0)
    # The device tree goes from the board to what it is made of.
    ranks = {name: rank for rank, name in enumerate(reversed(inventory.compatible), 1)}
    hardware = max((ranks.get(name, 0) for name in match.compatible), default=0)
    named = bool(match.boards or match.compatible)
    if not board and not hardware and (named or inventory.architecture not in match.architectures):
        return None
    return board, hardware, int(bool(match.accelerator))


def default_targets(
    inventory: Inventory, known: KnownType | None, buildable: Collection[str] = tuple(ENGINES)
) -> list[str]:
    """Return what to build for the device where nobody says: what suits its type, as far as it and the hub can.

    `buildable` are the engines that the hub has.

    A device of no known type, or with none of the engines that suit it, gets all that its engines offer, ONNX Runtime
    first (the floor that others are held against) and the reference, which is made to be right and not fast, last.
    """
    fitting = [target for target in known.spec.targets if target.partition("/")[0] in buildable] if known else []
    if usable := usable_targets(fitting, inventory):
        return usable
    engines = sorted(ENGINES, key=lambda name: (name == "reference", name != "onnxruntime", name))
    offered = [f"{name}/{each}" for name in engines if name in buildable for each in ENGINES[name].precisions]
    return usable_targets(offered, inventory)


def usable_targets(wanted: Sequence[str], inventory: Inventory) -> list[str]:
    """Return those of the wanted targets ("engine/precision") that the device's own engines can run."""
    engines: Mapping[str, Engine] = {engine.name: engine for engine in inventory.engines}
    usable = []
    for target in wanted:
        name, _, precision = target.partition("/")
        engine = engines.get(name)
        if engine is not None and (not engine.precisions or precision in engine.precisions):
            usable.append(target)
    return usable


def verification(known: KnownType | None, simulated: bool) -> Verification:
    """Return whether the makers ran the product on such hardware; a simulated board is none."""
    return Verification.UNVERIFIED if known is None or simulated else known.spec.verification


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


def times_kernels(device: DeviceView) -> bool:
    """Return whether the device has the runtime that tuned kernels need."""
    return any(engine.name == "tvm" for engine in device.inventory.engines)


def machine_of(device: DeviceView) -> str:
    """Return what devices on the same machine share: they would disturb each other's measurements."""
    return device.inventory.machine_id or f"device:{device.name}"
