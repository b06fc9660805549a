"""Messages and models carry the same fields, and nothing is lost between them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from milonga.v1 import (
    accounts_pb2,
    common_pb2,
    datasets_pb2,
    devices_pb2,
    labelling_pb2,
    models_pb2,
    projects_pb2,
    rollouts_pb2,
    telemetry_pb2,
)
from milonga_hub.accounts.models import AccountView, ApiKeyView, AuditEntry, CallerView
from milonga_hub.bridge import from_proto, to_proto
from milonga_hub.builds.models import Build
from milonga_hub.datasets.models import Dataset, DatasetVersionView
from milonga_hub.devices.models import (
    DeviceBuild,
    DeviceState,
    DeviceType,
    DeviceView,
    Inventory,
    JoinTokenView,
    Measurement,
    ShadowSpec,
)
from milonga_hub.errors import InvalidInput
from milonga_hub.labelling.models import Decision, LabelledAccuracy, Labelling, SampleBox, SampleView
from milonga_hub.models.models import Model, ModelVersion
from milonga_hub.projects.models import (
    DriftPolicy,
    DriftTrigger,
    Project,
    ProjectSpec,
    RetrainingPolicy,
    RolloutSpec,
    SamplingSpec,
)
from milonga_hub.rollouts.models import RolloutView
from milonga_hub.runs.models import Candidate, RunView
from milonga_hub.telemetry.models import DriftEvent, TelemetryWindowView
from pydantic import BaseModel

PAIRS: list[tuple[type[Message], type[BaseModel]]] = [
    (accounts_pb2.Account, AccountView),
    (accounts_pb2.ApiKey, ApiKeyView),
    (accounts_pb2.AuditEntry, AuditEntry),
    (accounts_pb2.Caller, CallerView),
    (devices_pb2.Device, DeviceView),
    (devices_pb2.DeviceType, DeviceType),
    (devices_pb2.Inventory, Inventory),
    (devices_pb2.JoinToken, JoinTokenView),
    (devices_pb2.Measurement, Measurement),
    (devices_pb2.DeviceBuild, DeviceBuild),
    (datasets_pb2.Dataset, Dataset),
    (labelling_pb2.Sample, SampleView),
    (labelling_pb2.SampleBox, SampleBox),
    (labelling_pb2.Decision, Decision),
    (labelling_pb2.Labelling, Labelling),
    (labelling_pb2.LabelledAccuracy, LabelledAccuracy),
    (datasets_pb2.DatasetVersion, DatasetVersionView),
    (projects_pb2.Project, Project),
    (projects_pb2.ProjectSpec, ProjectSpec),
    (projects_pb2.RetrainingPolicy, RetrainingPolicy),
    (projects_pb2.SamplingSpec, SamplingSpec),
    (projects_pb2.DriftTrigger, DriftTrigger),
    (projects_pb2.DriftPolicy, DriftPolicy),
    (projects_pb2.RolloutSpec, RolloutSpec),
    (common_pb2.ShadowSpec, ShadowSpec),
    (projects_pb2.Run, RunView),
    (projects_pb2.Candidate, Candidate),
    (models_pb2.Model, Model),
    (models_pb2.ModelVersion, ModelVersion),
    (models_pb2.Build, Build),
    (rollouts_pb2.Rollout, RolloutView),
    (telemetry_pb2.TelemetryWindow, TelemetryWindowView),
    (telemetry_pb2.DriftEvent, DriftEvent),
]


@pytest.mark.parametrize(("message", "model"), PAIRS, ids=lambda value: value.__name__)
def test_every_field_of_the_protocol_is_a_field_of_the_model(message: Any, model: type[BaseModel]) -> None:
    missing = {field.name for field in message.DESCRIPTOR.fields} - set(model.model_fields)
    assert not missing


def test_a_device_survives_the_way_there_and_back() -> None:
    seen = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    device = DeviceView(
        name="pi-1",
        device_type="raspberry-pi-5",
        state=DeviceState.ONLINE,
        labels={"site": "busan"},
        seen_at=seen,
        enrolled_at=seen,
        inventory=Inventory(cores=4, cpu_features=["neon"]),
    )
    assert from_proto(to_proto(device, devices_pb2.Device), DeviceView) == device


def test_an_explicit_zero_is_not_taken_for_the_default() -> None:
    spec = from_proto(projects_pb2.RolloutSpec(max_failure_ratio=0.0, waves=[1.0]), RolloutSpec)
    assert spec.max_failure_ratio == 0.0
    assert from_proto(projects_pb2.RolloutSpec(), RolloutSpec) == RolloutSpec()


def test_a_figure_that_is_missing_is_not_a_number_on_the_wire() -> None:
    message = to_proto(
        Measurement(id="m", device="d", device_type="t", subnet="s", engine="e", precision="p"),
        devices_pb2.Measurement,
    )
    assert math.isnan(message.median_ms)


def test_a_value_out_of_bounds_is_named() -> None:
    message = projects_pb2.ProjectSpec(dataset="digits", training=projects_pb2.TrainingSpec(resolution_px=33))
    with pytest.raises(InvalidInput, match="resolution_px"):
        from_proto(message, ProjectSpec)


@pytest.mark.parametrize(
    "said",
    [
        telemetry_pb2.TelemetryWindow(cpu_percent=math.inf),
        telemetry_pb2.TelemetryWindow(started_at=Timestamp(seconds=1 << 62)),
    ],
)
def test_what_could_be_stored_but_not_read_again_is_refused(said: Message) -> None:
    with pytest.raises(InvalidInput, match=r"cpu_percent|started_at"):
        from_proto(said, TelemetryWindowView)
