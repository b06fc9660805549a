"""The words for states, kinds and names that the hub itself gives, which pages show as they are: one table of all of them."""

from __future__ import annotations

from enum import Enum

from milonga_hub.alerts.models import AlertSeverity, AlertSignal, AlertState
from milonga_hub.builds.models import BuildState
from milonga_hub.callers import Role
from milonga_hub.devices.models import AgentUpgradeState, DeviceBuildState, DeviceState, JoinRequestState, Verification
from milonga_hub.hubs.models import HubState
from milonga_hub.labelling.models import SampleReason, SampleState
from milonga_hub.outbox import DeliveryState
from milonga_hub.rollouts.models import RolloutDeviceState, RolloutState, Step
from milonga_hub.runs.models import RunState, StageState, Trigger
from milonga_hub.tasks import Task
from milonga_hub.web.language import N_

# Whose members pages show; a test tells which of their words the table lacks.
ENUMERATIONS: tuple[type[Enum], ...] = (
    AgentUpgradeState, AlertSeverity, AlertSignal, AlertState, BuildState, DeliveryState, DeviceBuildState, DeviceState, HubState, JoinRequestState,
    Role, RolloutDeviceState, RolloutState, RunState, SampleReason, SampleState, StageState, Step, Task, Trigger, Verification,
)  # fmt: skip

WORDS = (
    # States.
    N_("aborted"), N_("approved"), N_("assigned"), N_("awaiting approval"), N_("building"), N_("built"), N_("cancelled"), N_("conflict"),
    N_("delivered"), N_("failed"), N_("given up"), N_("labelled"), N_("leading"), N_("lost"), N_("offline"), N_("online"), N_("open"), N_("paused"),
    N_("pending"), N_("queued"), N_("refused"), N_("rejected"), N_("resolved"), N_("revoked"), N_("running"), N_("serving"), N_("silent"), N_("skipped"),
    N_("started"), N_("succeeded"), N_("told"), N_("verified"), N_("waiting"), N_("not verified on hardware"),
    # Why a run began, and a picture was sent.
    N_("accuracy"), N_("apply"), N_("drift"), N_("import"), N_("manual"), N_("new labels"), N_("schedule"),
    N_("least confident"), N_("novel"), N_("random"),
    # What rules of alerts watch, and how bad it is.
    N_("device clock"), N_("device offline"), N_("error rate"), N_("latency"), N_("rolled back"), N_("rollout awaits approval"), N_("rollout paused"),
    N_("run failed"), N_("telemetry dropped"), N_("telemetry refused"), N_("telemetry flood"), N_("temperature"), N_("throttled"), N_("power"), N_("performance"), N_("critical"), N_("info"), N_("warning"),
    # Steps of a device.
    N_("activate"), N_("build"), N_("commit"), N_("download"), N_("install"), N_("probe"), N_("roll back"), N_("shadow"),
    N_("verify"),
    # Roles and tasks.
    N_("viewer"), N_("operator"), N_("admin"), N_("classification"), N_("detection"), N_("mAP50-95"),
    # Stages of runs and builds.
    N_("prepare"), N_("train"), N_("profile"), N_("search"), N_("finetune"), N_("compare"), N_("rollout"), N_("measure"),
    # Gates of builds.
    N_("parity"), N_("disagreement"), N_("size"), N_("memory"),
    # Signals of drift, and what distributions are of.
    N_("confidence"), N_("classes"), N_("brightness"), N_("contrast"), N_("sharpness"), N_("chroma"), N_("warmth"),
    N_("embedding"), N_("errors"), N_("slow"),
    # Elastic dimensions.
    N_("depth"), N_("width"), N_("kernel"), N_("expand"), N_("resolution"), N_("level"), N_("squeeze"),
)  # fmt: skip
