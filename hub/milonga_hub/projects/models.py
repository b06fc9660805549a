"""What a user wants of a project. The YAML in fleet_configs/projects validates as ProjectSpec."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import Field as Bound
from pydantic import model_validator
from sqlmodel import Field, SQLModel

from milonga_hub.db import UTC_TIME, json_of, utc_now
from milonga_hub.devices.models import ShadowSpec
from milonga_hub.documents import Kind, Spec
from milonga_hub.tasks import Task

# int32 and int64 in the protocol; seeds as numpy and torch both take them.
_COUNT = 2**31 - 1
_BYTES = 2**63 - 1
_SEED = 2**32 - 1
# Ten years: later than that is never, and datetimes overflow.
_SECONDS = 10 * 365 * 86400.0
# A week: jobs take turns, and a tuning holds up the others.
_MINUTES = 7 * 1440.0


class Limits(Spec):
    """Limits for the devices that the selector names; one left out does not bind."""

    selector: str = ""
    latency_ms: Annotated[float, Bound(gt=0)] | None = None
    model_bytes: Annotated[int, Bound(gt=0, le=_BYTES)] | None = None
    memory_bytes: Annotated[int, Bound(gt=0, le=_BYTES)] | None = None
    min_accuracy: Annotated[float, Bound(gt=0, le=1)] | None = None


class TrainingSpec(Spec):
    space: str = "mbv3"
    resolution_px: int = Bound(default=32, ge=16, le=640, multiple_of=8)
    epochs: int = Bound(default=30, ge=1, le=_COUNT)
    retrain_epochs: int = Bound(default=15, ge=1, le=_COUNT)
    batch_size: int = Bound(default=0, ge=0, le=_COUNT)
    learning_rate: float = Bound(default=0.0, ge=0)
    seed: int = Bound(default=0, ge=0, le=_SEED)
    threads: int = Bound(default=0, ge=0, le=_COUNT)
    tuning_trials: int = Bound(default=0, ge=0, le=1000)
    patience: int = Bound(default=0, ge=0, le=_COUNT)
    finetune_epochs: int = Bound(default=0, ge=0, le=_COUNT)
    # Steps of plug-ins, in order.
    preprocessing: list[str] = Bound(default=[])


class SearchStrategy(StrEnum):
    """How a device type gets its network: a subnet of one supernet, or one of five fixed networks, trained alone."""

    SEARCH = "SEARCH"
    BASELINE = "BASELINE"


class SearchSpec(Spec):
    # Not strict: YAML writes it as text.
    strategy: SearchStrategy = Bound(default=SearchStrategy.SEARCH, strict=False)
    measured_subnets: int = Bound(default=8, ge=4, le=_COUNT)
    further_measurements: int = Bound(default=8, ge=0, le=_COUNT)
    evaluated_subnets: int = Bound(default=24, ge=8, le=_COUNT)
    population: int = Bound(default=48, ge=8, le=_COUNT)
    generations: int = Bound(default=30, ge=1, le=_COUNT)
    seed: int = Bound(default=0, ge=0, le=_SEED)
    verified_candidates: int = Bound(default=3, ge=1, le=_COUNT)


class BuildSpec(Spec):
    # Empty: those of each device's type.
    targets: list[str] = Bound(default=[])
    max_accuracy_loss_points: float = Bound(default=0.5, ge=0)
    max_class_loss_points: float = Bound(default=5.0, ge=0)
    calibration_count: int = Bound(default=128, ge=1, le=_COUNT)
    # Of each build for TVM; 0: its kernels are not tuned.
    tuning_minutes: float = Bound(default=0.0, ge=0, le=_MINUTES)
    # A device of each type times them, in place of the hub.
    tune_on_devices: bool = Bound(default=False)

    @model_validator(mode="after")
    def _tuned_for_some_time(self) -> BuildSpec:
        if self.tune_on_devices and not self.tuning_minutes:
            raise ValueError("tune_on_devices: say for how long, build.tuning_minutes is 0")
        return self


class DetectionSpec(Spec):
    """Which boxes devices tell; the defaults are those of ultralytics' predict."""

    score_threshold: float = Bound(default=0.25, ge=0, lt=1)
    iou_threshold: float = Bound(default=0.7, gt=0, le=1)
    max_boxes: int = Bound(default=300, ge=1, le=30_000)


# Shares of the devices, and how long to wait for one that is off line; None: for ever.
Waves = Annotated[list[Annotated[float, Bound(gt=0, le=1)]], Bound(min_length=1)]
LateAfter = Annotated[float, Bound(ge=0, le=_SECONDS)] | None


class RolloutSpec(Spec):
    waves: Waves = Bound(default=[0.34, 0.66])
    soak_seconds: float = Bound(default=60.0, ge=0)
    max_failure_ratio: float = Bound(default=0.0, ge=0, le=1)
    # Selector of the devices that make a wave of their own, before all others.
    canaries: str = ""
    # How many devices the waves after the canaries have; `waves` divides the rest.
    wave_sizes: list[Annotated[int, Bound(ge=1, le=_COUNT)]] = Bound(default=[])
    # Selectors: devices that an earlier one names come earlier.
    priorities: list[str] = Bound(default=[])
    # Devices on their way at a time; 0: any number.
    max_concurrent: int = Bound(default=0, ge=0, le=_COUNT)
    # When devices may begin, in their own time zone; empty: always.
    windows: list[str] = Bound(default=[])
    # Off line for so long, a device holds up its wave no more.
    late_after_seconds: LateAfter = None
    approval: bool = False
    # None: a version serves as soon as it is installed and probed.
    shadow: ShadowSpec | None = None
    # Where too much fails, devices go back to the version before; else the rollout pauses.
    roll_back: bool = False
    # By how much the share of requests that fail may be larger than on devices that do not have the version; None: by any.
    max_error_increase: Annotated[float, Bound(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> RolloutSpec:
        if abs(sum(self.waves) - 1.0) > 1e-6:
            raise ValueError(f"waves must add up to 1; these add up to {sum(self.waves):g}")
        return self


class DriftMethod(StrEnum):
    """How drift is told from chance: see docs/drift.md."""

    SEQUENTIAL = "SEQUENTIAL"
    THRESHOLD = "THRESHOLD"


class DriftReference(StrEnum):
    """What devices are held against: the validation pictures, or what each saw first with the bundle."""

    VALIDATION = "VALIDATION"
    FIRST_WINDOWS = "FIRST_WINDOWS"


class DriftTrigger(Spec):
    enabled: bool = False
    # Not strict: YAML writes them as text.
    method: DriftMethod = Bound(default=DriftMethod.SEQUENTIAL, strict=False)
    reference: DriftReference = Bound(default=DriftReference.VALIDATION, strict=False)
    # Of all devices of the project together, by the sequential method.
    false_alarms_per_month: float = Bound(default=0.1, gt=0, le=1)
    min_samples: int = Bound(default=200, ge=1, le=_COUNT)
    # Small, since the rate of false alarms is held apart from it; 0.25 is usual with THRESHOLD.
    threshold: float = Bound(default=0.1, gt=0)
    quorum: int = Bound(default=1, ge=1, le=_COUNT)
    # Of the devices of one type; the quorum is then of one type, too.
    quorum_share: Annotated[float, Bound(gt=0, le=1)] | None = None
    min_new_labels: int = Bound(default=0, ge=0, le=_COUNT)


class AccuracyTrigger(Spec):
    """Starts a run where too few answers are right, by labels or by the model's own, calibrated confidence."""

    # None: accuracy starts nothing.
    below: Annotated[float, Bound(gt=0, le=1)] | None = None
    min_samples: int = Bound(default=500, ge=1, le=_COUNT)
    # Labelled pictures that devices chose by chance; from so many on labels decide, not confidence.
    min_labels: int = Bound(default=50, ge=1, le=_COUNT)


class DriftPolicy(DriftTrigger):
    """What telemetry goes by, and what project files of earlier versions have at `spec.drift`."""

    cool_down_seconds: float = Bound(default=3600.0, ge=0)


class RetrainingPolicy(Spec):
    """When a project retrains by itself: what starts a run, and what holds it back."""

    drift: DriftTrigger = DriftTrigger()
    accuracy: AccuracyTrigger = AccuracyTrigger()
    # 0 and "": never for this.
    new_labels: int = Bound(default=0, ge=0, le=_COUNT)
    schedule: str = ""
    time_zone: str = "UTC"
    cool_down_seconds: float = Bound(default=3600.0, ge=0, le=_SECONDS)
    # 0: any number.
    max_runs_per_day: int = Bound(default=0, ge=0, le=_COUNT)
    max_runs_per_week: int = Bound(default=0, ge=0, le=_COUNT)
    quiet_hours: list[str] = Bound(default=[])
    approval: bool = False

    @property
    def cool_down(self) -> timedelta:
        return timedelta(seconds=self.cool_down_seconds)

    @property
    def drift_policy(self) -> DriftPolicy:
        return DriftPolicy(**self.drift.model_dump(), cool_down_seconds=self.cool_down_seconds)


class SamplingSpec(Spec):
    """Which pictures leave devices to be labelled. Off unless it is enabled: this is the switch of privacy."""

    enabled: bool = False
    # Weights; one of 0 is never the reason.
    least_confident: float = Bound(default=0.5, ge=0, le=1)
    novel: float = Bound(default=0.25, ge=0, le=1)
    random: float = Bound(default=0.25, ge=0, le=1)
    pictures_per_day: int = Bound(default=100, ge=1, le=86_400)
    megabytes_per_day: float = Bound(default=20.0, gt=0, le=100_000)
    max_side_px: int = Bound(default=1024, ge=32, le=8192)
    # The share of pictures that two people are asked about.
    second_opinions: float = Bound(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _some(self) -> SamplingSpec:
        if self.least_confident + self.novel + self.random <= 0:
            raise ValueError(
                "one of least_confident, novel and random must be above 0; to send nothing: enabled: false"
            )
        return self


class ProjectSpec(Spec):
    # Not strict: YAML writes it as text.
    task: Task = Bound(default=Task.CLASSIFICATION, strict=False)
    # Empty: nothing is trained, models come from elsewhere.
    dataset: str = ""
    selector: str = ""
    limits: list[Limits] = Bound(default=[])
    training: TrainingSpec = TrainingSpec()
    search: SearchSpec = SearchSpec()
    build: BuildSpec = BuildSpec()
    detection: DetectionSpec = DetectionSpec()
    rollout: RolloutSpec = RolloutSpec()
    # Where files of earlier versions have a part of `retraining`; always None once read.
    drift: DriftPolicy | None = Bound(default=None, exclude=True)
    retraining: RetrainingPolicy = RetrainingPolicy()
    samples: SamplingSpec = SamplingSpec()

    @model_validator(mode="after")
    def _take_drift_for_retraining(self) -> ProjectSpec:
        if self.drift is None:
            return self
        if "retraining" in self.model_fields_set:
            raise ValueError("drift belongs to retraining now; move what it says there")
        drift = DriftTrigger(**self.drift.model_dump(exclude={"cool_down_seconds"}))
        cool_down_seconds = min(self.drift.cool_down_seconds, _SECONDS)
        self.retraining = RetrainingPolicy(drift=drift, cool_down_seconds=cool_down_seconds)
        self.drift = None
        return self


PROJECT_FILE = Kind("Project", ProjectSpec, "fleet_configs/projects")


class ProjectChange(SQLModel, table=True):
    """What applying a spec changed, where the request had an id: a repeated request gets the same answer."""

    __tablename__ = "project_change"
    project: str = Field(primary_key=True)
    request_id: str = Field(primary_key=True)
    changes: list[str] = Field(default=[], sa_type=json_of(list[str]))


class Project(SQLModel, table=True):
    name: str = Field(primary_key=True)
    spec: ProjectSpec = Field(sa_type=json_of(ProjectSpec))
    spec_generation: int = 1
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    updated_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
