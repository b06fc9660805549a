"""What is simulated, as `milonga simulate` hands it over in JSON (the hub's simulation/spec.py checks what users write)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from milonga_agent.plan import Step


class FaultKind(str, Enum):
    """What goes wrong."""

    # No connection at all.
    OFFLINE = "offline"
    # Latencies and steps take `factor` times as long.
    SLOW = "slow"
    # `step` ends badly, for good.
    FAILING = "failing"
    # The device's clock is off by `hours`.
    CLOCK = "clock"
    # `messages_per_second` more heartbeats, and as many more windows of telemetry.
    FLOOD = "flood"
    # All connections end at once and are opened again.
    RECONNECT = "reconnect"
    # What the device sees moves by `shift` of the range of a histogram.
    DRIFT = "drift"
    # The machine is hot and says that it is throttled; latencies and steps take `factor` times as long.
    THROTTLED = "throttled"
    # An upgrade of the agent ends as `ends` says.
    UPGRADE = "upgrade"


class UpgradeEnd(str, Enum):
    """How an upgrade of the agent ends that does not end well."""

    # The device says that it cannot take the release, and goes on.
    REFUSED = "REFUSED"
    # The new agent does not start; the one before it comes back after a while, and says so.
    FALLS_BACK = "FALLS_BACK"
    # The device is not heard of again, until the fault is over.
    SILENT = "SILENT"


@dataclass(frozen=True)
class Fault:
    """What goes wrong for a share of the devices, from a time on, for a while, and again and again if it says so."""

    kind: FaultKind
    share: float = 1.0
    at_seconds: float = 0.0
    # None: until the end.
    for_seconds: float | None = None
    # None: once.
    every_seconds: float | None = None
    factor: float = 5.0
    step: Step = Step.PROBE
    message: str = ""
    hours: float = 0.0
    messages_per_second: float = 10.0
    shift: float = 0.25
    ends: UpgradeEnd = UpgradeEnd.FALLS_BACK

    @classmethod
    def of(cls, said: dict[str, Any]) -> Fault:
        enums = {
            "kind": FaultKind(said["kind"]),
            "step": Step(said.get("step", cls.step.value)),
            "ends": UpgradeEnd(said.get("ends", cls.ends.value)),
        }
        return cls(**{**said, **enums})


@dataclass(frozen=True)
class Machine:
    """One kind of device: what it says of itself, and how long a network of one megabyte takes on it."""

    name: str
    share: float
    # A milonga.v1.Inventory by its field names.
    inventory: dict[str, Any]
    latency_ms: float
    # None: it has no such sensor.
    power_watts: float | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Simulation:
    """A fleet and its fate. Equal seeds make equal fleets."""

    hub: str
    join_token: str
    devices: int
    machines: tuple[Machine, ...]
    faults: tuple[Fault, ...] = ()
    prefix: str = "sim"
    seed: int = 0
    # None: until it is interrupted.
    duration_seconds: float | None = None
    joins_per_second: float = 50.0
    # How long a step of an assignment takes, the download apart.
    step_seconds: float = 0.5
    # How long an upgrade of the agent takes, the download apart.
    upgrade_seconds: float = 10.0
    requests_per_second: float = 2.0
    error_ratio: float = 0.0
    # Of the devices: who keeps a connection for telemetry.
    telemetry_share: float = 1.0

    @classmethod
    def of(cls, said: dict[str, Any]) -> Simulation:
        return cls(
            **{
                **said,
                "machines": tuple(Machine(**each) for each in said["machines"]),
                "faults": tuple(Fault.of(each) for each in said.get("faults", ())),
            }
        )

    def name(self, index: int) -> str:
        return f"{self.prefix}-{index:05}"

    def machine(self, index: int) -> Machine:
        """Return the device's kind: each has its share of any long stretch of numbers, which lie mixed."""
        whole = sum(each.share for each in self.machines)
        # Multiples of the golden ratio are spread evenly (a Kronecker sequence).
        position = whole * math.modf((index + 0.5) * (math.sqrt(5.0) - 1.0) / 2.0)[0]
        for each in self.machines:
            position -= each.share
            if position < 0.0:
                return each
        return self.machines[-1]

    def suffers(self, index: int, fault: int) -> bool:
        """Say whether the fault with this number strikes the device with this number."""
        return draw(self.seed, "fault", fault, index) < self.faults[fault].share

    def has_telemetry(self, index: int) -> bool:
        return draw(self.seed, "telemetry", index) < self.telemetry_share


def draw(*parts: object) -> float:
    """Return a number from 0 up to 1 that looks random and is always the same for the same parts."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64
