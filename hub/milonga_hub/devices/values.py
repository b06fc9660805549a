"""What agents say and are told, as values: the service trades in these, rpc.py in messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel

from milonga_hub.devices.models import AgentUpgrade, Conditions, DeviceState, File, Inventory, ShadowSpec


@dataclass(frozen=True)
class Enrolment:
    """A machine that wants to become a device."""

    join_token: str
    device: str
    inventory: Inventory
    agent_version: str
    simulated: bool
    labels: dict[str, str]
    # PKCS #10 in DER.
    certificate_request: bytes
    # Where it asks from, for people.
    address: str = ""


@dataclass(frozen=True)
class Identity:
    """What a device is called, and how it proves it; without a certificate it waits for an operator."""

    device: str
    key_fingerprint: str
    device_type: str = ""
    certificate: str = ""


@dataclass(frozen=True)
class NewCertificate:
    """A certificate (PEM) on an open stream, and when to ask for the next one."""

    certificate: str
    renew_after_seconds: float


class Outline(NamedTuple):
    """As much of a device as its place in the fleet takes; thousands are read at a time."""

    name: str
    device_type: str
    state: DeviceState
    simulated: bool
    labels: dict[str, str]
    enrolled_at: datetime
    assigned_generation: int
    reported_generation: int
    active_version: str


class Standing(NamedTuple):
    """As much of a device as rollouts look at; the whole fleet is read at a time."""

    name: str
    device_type: str
    state: DeviceState
    simulated: bool
    labels: dict[str, str]
    seen_at: datetime | None
    assigned_generation: int
    reported_generation: int
    active_bundle: str
    pinned_version: str
    knows_shadows: bool
    # What its label says, else what its machine says.
    time_zone: str
    agent_version: str = ""
    wanted_upgrades: int = 0
    agent_upgrade: AgentUpgrade | None = None


class LastStep(NamedTuple):
    """What a device told last of an assignment: of a step that failed, where one did."""

    step: str
    message: str
    # What its shadow came to, empty where there was none.
    shadow: str


class NewAssignment(BaseModel):
    """What goes to a device of an assignment that was just stored: a row of the table takes a hundred times as long to make."""

    device: str
    generation: int
    bundle: str
    files: list[File]
    model_version: str
    project: str
    expected_ms: float
    shadow: ShadowSpec | None


class AgentStatus(BaseModel, frozen=True):
    generation: int = 0
    active_bundle: str = ""
    serving_url: str = ""
    message: str = ""
    # Empty from agents that do not tell: then it is what the bundle was built for.
    active_engine: str = ""
    # How often it has started anew, profiled and upgraded itself because operators wanted it.
    restarts: int = 0
    profiles: int = 0
    upgrades: int = 0
    # Why the last upgrade was not made or did not last; empty from agents that do not tell.
    upgrade_problem: str = ""


class HelpKind(StrEnum):
    """What an operator wants to see of a device."""

    LOG = "LOG"
    DIAGNOSTICS = "DIAGNOSTICS"


@dataclass(frozen=True)
class HelpTask:
    """One look into a device."""

    id: str
    kind: HelpKind
    cursor: str = ""
    max_bytes: int = 0


class HelpAnswer(BaseModel):
    id: str
    content: bytes = b""
    cursor: str = ""
    error: str = ""


@dataclass(frozen=True)
class AgentRelease:
    """The agent that fits this hub: a signed manifest, the wheels that it names, and the number that grows with each."""

    manifest: File
    wheels: tuple[File, ...]
    number: int = 0
    # What an agent says of itself that runs it.
    version: str = ""


@dataclass(frozen=True)
class Care:
    """How often operators wanted a device to start anew, to profile and to upgrade itself, in all; and to what, where it shall."""

    restarts: int
    profiles: int
    upgrades: int = 0
    release: AgentRelease | None = None


@dataclass(frozen=True)
class CacheKey:
    """By what a device that serves its neighbours knows their tickets, and the hub's time, by which those end."""

    key: bytes = field(repr=False)
    now: datetime


@dataclass(frozen=True)
class Passed:
    """What another hub has for the device, as it is sent."""

    body: bytes


class Neighbour(NamedTuple):
    """A device that another may fetch a blob from."""

    device: str
    addresses: tuple[str, ...]
    certificate_sha256: bytes
    ticket: str


@dataclass(frozen=True)
class Download:
    """What one download of a project's build moved for so many bytes, and which devices sent what of it."""

    project: str
    whole_bytes: int
    moved_bytes: int
    neighbours: Mapping[str, int]


class DeviceTransfers(BaseModel):
    """What came to a device of its builds, and what it sent to its neighbours."""

    # Where it serves them now.
    serves_at: list[str] = []
    whole_bytes: int = 0
    moved_bytes: int = 0
    neighbour_bytes: int = 0
    served_bytes: int = 0

    @property
    def hub_bytes(self) -> int:
        """What the hub sent of it."""
        return self.moved_bytes - self.neighbour_bytes


class Hello(BaseModel):
    """The first words of an agent on a new stream."""

    inventory: Inventory = Inventory()
    agent_version: str = ""
    boot_id: str = ""
    status: AgentStatus = AgentStatus()
    knows_shadows: bool = False
    knows_tuning: bool = False


@dataclass(frozen=True)
class AgentSettings:
    """What the hub wants of every agent."""

    heartbeat_seconds: float
    telemetry_seconds: float
    renew_after_seconds: float = 0.0


@dataclass(frozen=True)
class SamplingPolicy:
    """Which pictures a device may keep and send to be labelled; by itself: none."""

    project: str = ""
    enabled: bool = False
    least_confident: float = 0.0
    novel: float = 0.0
    random: float = 0.0
    pictures_per_day: int = 0
    bytes_per_day: int = 0
    max_side_px: int = 0


@dataclass(frozen=True)
class MeasurementItem:
    """A model to be timed: an ONNX file, or all files of a bundle."""

    subnet: str
    engine: str
    precision: str
    files: Sequence[File]
    # What the device may take to build it first.
    building_seconds: float = 0.0


@dataclass(frozen=True)
class MeasuringPolicy:
    """How long one measurement may go on. The median of a small network settles well within these."""

    warm_up_repeats: int = 5
    min_repeats: int = 20
    max_repeats: int = 300
    budget_seconds: float = 10.0
    # Beyond the budget: fetching the file over a slow line, loading the engine, cooling down, repeats that take long.
    slack_seconds: float = 120.0
    # A model that takes its device down every time is given up in the end; a flaky line is not the model's fault.
    max_losses: int = 3

    @property
    def comparing_seconds(self) -> float:
        """Return what a type's devices may spend on rounds after the first. Three builds that are close take some 15 s for each on a
        board at rest."""
        return 30 * self.budget_seconds

    def brief(self) -> MeasuringPolicy:
        """Return how long one of several rounds may go on: much shorter ones lose more to loading than they gain by taking turns."""
        return replace(self, min_repeats=min(self.min_repeats, 5), budget_seconds=self.budget_seconds / 5)


@dataclass(frozen=True)
class MeasurementTask:
    """One measurement as a device is asked for it."""

    id: str
    item: MeasurementItem
    policy: MeasuringPolicy
    # Models with the same batch are measured again in turn, so the device keeps up to so many.
    batch: str = ""
    batch_size: int = 1


class Latency(BaseModel):
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    mean: float = 0.0
    count: int = 0


class MeasurementResult(Conditions):
    """What the device found; `error` is empty on success."""

    id: str
    error: str = ""
    latency_ms: Latency | None = None


@dataclass(frozen=True)
class TimingItem:
    """Kernels to be timed, `count` of them in one file, and what lets a device run them: protos/milonga/tuning_session.py."""

    session: File
    kernels: File
    signature: bytes
    count: int
    # Of one kernel: for how long it is repeated, and what it may take.
    seconds_each: float
    max_seconds_each: float
    # What all may take together.
    max_seconds: float


@dataclass(frozen=True)
class TimingTask:
    """Kernels to be timed as a device is asked for them."""

    id: str
    item: TimingItem


class KernelTime(BaseModel):
    """The median of one call; 0 where `error` says why there is none."""

    ms: float = 0.0
    error: str = ""


class TimingResult(BaseModel):
    """What the device found, or in `error` why it timed nothing."""

    id: str
    error: str = ""
    kernels: list[KernelTime] = []


class Profile(BaseModel):
    """What a device found when it profiled itself again."""

    number: int
    inventory: Inventory = Inventory()
    measurement: MeasurementResult | None = None
    bundle: str = ""
    # Engine and precision.
    engine: str = ""
