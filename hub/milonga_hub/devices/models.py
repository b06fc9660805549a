"""Devices as they are stored and shown. Fields that the protocol has too bear its names."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel
from pydantic import Field as Bound
from sqlmodel import Field, SQLModel

from milonga_hub.db import UTC_TIME, json_of, utc_now
from milonga_hub.documents import Spec


class DeviceState(StrEnum):
    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"
    # Shut out by an operator.
    REVOKED = "REVOKED"


class Engine(BaseModel):
    name: str
    version: str = ""
    precisions: list[str] = []


class Accelerator(BaseModel):
    kind: str = ""
    model: str = ""
    memory_bytes: int = 0


class Inventory(BaseModel):
    hostname: str = ""
    machine_id: str = ""
    board: str = ""
    architecture: str = ""
    cpu_model: str = ""
    cpu_features: list[str] = []
    cores: int = 0
    threads: int = 0
    memory_bytes: int = 0
    disk_free_bytes: int = 0
    os: str = ""
    kernel: str = ""
    python: str = ""
    # The device tree's list, board first and system on chip last; empty on x86.
    compatible: list[str] = []
    # Name in the tz database, empty where the machine does not say.
    time_zone: str = ""
    engines: list[Engine] = []
    accelerators: list[Accelerator] = []
    thermal_zones: list[str] = []


class File(BaseModel):
    path: str
    digest: str
    size_bytes: int


class AgentUpgradeState(StrEnum):
    WAITING = "WAITING"
    TOLD = "TOLD"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    # Shown, never kept: it was told long ago and has not shown what became of it (rules_upgrades.py).
    SILENT = "SILENT"


class AgentUpgrade(BaseModel, frozen=True):
    """What became of an operator's wish that a device's agent be another."""

    # What the agent says of itself once it runs.
    agent_version: str
    state: AgentUpgradeState = AgentUpgradeState.WAITING
    message: str = ""
    wanted_at: datetime
    # None while the device has not been on line since.
    told_at: datetime | None = None
    ended_at: datetime | None = None


class DeviceView(SQLModel):
    """What people see of a device."""

    name: str = Field(primary_key=True)
    device_type: str = Field(index=True)
    state: DeviceState = DeviceState.OFFLINE
    labels: dict[str, str] = Field(default={}, sa_type=json_of(dict[str, str]))
    simulated: bool = False
    inventory: Inventory = Field(default=Inventory(), sa_type=json_of(Inventory))
    agent_version: str = ""
    enrolled_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME, index=True)
    seen_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    assigned_generation: int = 0
    reported_generation: int = 0
    active_version: str = ""
    active_engine: str = ""
    active_bundle: str = ""
    status_message: str = ""
    serving_url: str = ""
    # Digest of its public key; empty for one that joined before there were certificates.
    key_fingerprint: str = ""
    certificate_expires_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    revoked_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    # When two machines were last seen with this identity.
    cloned_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    # What an operator keeps the device on: rollouts of other versions leave it out.
    pinned_version: str = ""
    # How often operators wanted it to start anew, to profile and to upgrade itself, and how often it has.
    wanted_restarts: int = 0
    restarts: int = 0
    wanted_profiles: int = 0
    profiles: int = 0
    wanted_upgrades: int = 0
    upgrades: int = 0
    # Below 0: its clock is behind the hub's. None: its agent does not tell. See rules.noted_clock.
    clock_ahead_seconds: float | None = None
    # The last one; None: never, or before this was kept.
    agent_upgrade: AgentUpgrade | None = Field(default=None, sa_type=json_of(AgentUpgrade))


class Device(DeviceView, table=True):
    # The newest last.
    boot_ids: list[str] = Field(default=[], sa_type=json_of(list[str]))
    # Whether its agent runs a version beside another, and times kernels; as it said when it last connected.
    knows_shadows: bool = False
    knows_tuning: bool = False
    # Which hub has its stream, or had it last.
    hub: str = ""


class IssuedCertificate(SQLModel, table=True):
    """A certificate that a device was given, until it ends: what a broker has to refuse once the device is shut out."""

    __tablename__ = "issued_certificate"
    serial: str = Field(primary_key=True)
    device: str = Field(index=True)
    key_fingerprint: str
    expires_at: datetime = Field(sa_type=UTC_TIME)


class JoinRequestState(StrEnum):
    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REFUSED = "REFUSED"


class JoinRequest(SQLModel, table=True):
    """A machine that asked to join without a token, until it has a certificate."""

    __tablename__ = "join_request"
    id: str = Field(primary_key=True)
    device: str = Field(index=True)
    key_fingerprint: str
    state: JoinRequestState = JoinRequestState.PENDING
    inventory: Inventory = Field(default=Inventory(), sa_type=json_of(Inventory))
    labels: dict[str, str] = Field(default={}, sa_type=json_of(dict[str, str]))
    simulated: bool = False
    agent_version: str = ""
    address: str = ""
    requested_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    asked_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)


class Verification(StrEnum):
    """Whether the product was run on this hardware by its makers."""

    VERIFIED = "verified"
    UNVERIFIED = "not verified on hardware"


class DeviceType(SQLModel, table=True):
    __tablename__ = "device_type"
    name: str = Field(primary_key=True)
    fingerprint: str = Field(index=True, unique=True)
    simulated: bool = False
    inventory: Inventory = Field(default=Inventory(), sa_type=json_of(Inventory))
    device_count: int = 0
    # These three are filled in on reading, by what this version of the hub knows.
    verification: Verification = Verification.UNVERIFIED
    # The entry of fleet_configs/device_types that it matches; empty for none.
    known_type: str = ""
    # What is built for it where a project names no targets, the preferred first.
    targets: list[str] = Field(default=[], sa_type=json_of(list[str]))
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)


class JoinTokenView(SQLModel):
    id: str = Field(primary_key=True)
    labels: dict[str, str] = Field(default={}, sa_type=json_of(dict[str, str]))
    uses_left: int = 1
    expires_at: datetime = Field(sa_type=UTC_TIME)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)


class JoinToken(JoinTokenView, table=True):
    __tablename__ = "join_token"
    secret_hash: str = Field(default="", index=True)


class TooFewRequests(StrEnum):
    """What becomes of a shadow that saw too few requests to tell."""

    FAIL = "FAIL"
    GO_ON = "GO_ON"


class ShadowSpec(Spec):
    """How a version runs beside the one that serves, on copies of real requests, before it may serve: see docs/rollouts.md."""

    # A week at most: it begins again where the device restarts.
    minutes: float = Bound(default=30.0, gt=0, le=10_080)
    min_requests: int = Bound(default=50, ge=1, le=2**31 - 1)
    max_disagreement: float = Bound(default=0.1, ge=0, le=1)
    # Of the requests, those that are copied.
    share: float = Bound(default=1.0, gt=0, le=1)
    # Not strict: YAML writes it as text.
    too_few_requests: TooFewRequests = Bound(default=TooFewRequests.FAIL, strict=False)


class Assignment(SQLModel, table=True):
    """The newest wish for each device; the generation only grows."""

    device: str = Field(primary_key=True)
    generation: int
    bundle: str = ""
    files: list[File] = Field(default=[], sa_type=json_of(list[File]))
    model_version: str = ""
    project: str = ""
    # Median of one answer as measured on this type of device, 0 where none was.
    expected_ms: float = 0.0
    # Engine and precision, for people.
    engine: str = ""
    # None: it serves at once.
    shadow: ShadowSpec | None = Field(default=None, sa_type=json_of(ShadowSpec))
    assigned_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)


class KnownBundle(SQLModel, table=True):
    """What every bundle that was ever assigned is, for devices that go back to an earlier one."""

    __tablename__ = "known_bundle"
    bundle: str = Field(primary_key=True)
    model_version: str = ""
    project: str = ""
    engine: str = ""


class StepLog(SQLModel, table=True):
    """Every step that a device reported, for its history."""

    __tablename__ = "step_log"
    id: int | None = Field(default=None, primary_key=True)
    device: str = Field(index=True)
    generation: int
    step: str
    state: str
    message: str = ""
    attempt: int = 0
    reported_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)


class Transferred(SQLModel, table=True):
    """What came to a device of a project's builds, and what it sent of them to its neighbours, added up."""

    device: str = Field(primary_key=True)
    project: str = Field(primary_key=True, index=True)
    whole_bytes: int = 0
    moved_bytes: int = 0
    neighbour_bytes: int = 0
    served_bytes: int = 0


class DeviceBuildState(StrEnum):
    """FAILED: nothing was made; BUILT: made, and it does not run or computes something else; VERIFIED: it ran and is right."""

    FAILED = "FAILED"
    BUILT = "BUILT"
    VERIFIED = "VERIFIED"


class DeviceBuild(SQLModel, table=True):
    """The newest that a device told of building one engine of one bundle for itself."""

    __tablename__ = "device_build"
    id: str = Field(default="", primary_key=True)
    device: str = Field(default="", index=True)
    bundle: str = Field(default="", index=True)
    engine: str
    precision: str
    engine_version: str = ""
    gpu: str = ""
    state: DeviceBuildState
    seconds: float = 0.0
    cached: bool = False
    error: str = ""
    # None where it never ran.
    max_abs_error: float | None = None
    # None where it was not held to what the network decides.
    agreement: float | None = None
    reported_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)


class Conditions(SQLModel):
    """How a measurement was taken, as the device tells it; None where it has no such sensor or figure."""

    peak_memory_bytes: int = 0
    median_half_width_ms: float | None = None
    drift_ratio: float | None = None
    # None by agents that do not tell.
    settled: bool | None = None
    throttled: bool = False
    drifting: bool = False
    attempts: int = 0
    cooled_seconds: float = 0.0
    # Empty where the device's platform cannot pin.
    pinned_cpus: list[int] = Field(default=[], sa_type=json_of(list[int]))
    temperature_begin_celsius: float | None = None
    temperature_max_celsius: float | None = None
    # At the end.
    temperature_celsius: float | None = None
    frequency_begin_mhz: float | None = None
    frequency_min_mhz: float | None = None
    frequency_end_mhz: float | None = None


class Measurement(Conditions, table=True):
    id: str = Field(primary_key=True)
    device: str
    device_type: str = Field(index=True)
    subnet: str = Field(index=True)
    engine: str
    precision: str
    # None where the measurement failed; `error` says why.
    median_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    repeats: int = 0
    measured_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    run: str = Field(default="", index=True)
    purpose: str = ""
    error: str = ""
