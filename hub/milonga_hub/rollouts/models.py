"""Rollouts, their waves, and what became of each device."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel
from sqlmodel import Field, SQLModel

from milonga_hub.db import UTC_TIME, json_of, utc_now
from milonga_hub.projects.models import RolloutSpec


class RolloutState(StrEnum):
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    ABORTED = "ABORTED"
    # Begins when a person approves.
    AWAITING_APPROVAL = "AWAITING_APPROVAL"


# The reason of a rollout that a person paused; one that paused itself says what failed.
PAUSED_BY_HAND = "paused by hand"
# Devices still come late or join later.
LIVE = (RolloutState.RUNNING, RolloutState.SUCCEEDED)
# Devices on their way finish, also while it is paused.
LOOKED_AFTER = (*LIVE, RolloutState.PAUSED)
# Those that a person or a newer rollout can still end.
OPEN = (RolloutState.AWAITING_APPROVAL, RolloutState.RUNNING, RolloutState.PAUSED)


class RolloutDeviceState(StrEnum):
    WAITING = "WAITING"
    ASSIGNED = "ASSIGNED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    # Shown, never kept: the rollout was aborted while the device was on its way, or before its turn (rules_ending.py).
    TOLD = "TOLD"
    SKIPPED = "SKIPPED"


class Step(StrEnum):
    """Steps of the agent, as in the protocol."""

    DOWNLOAD = "DOWNLOAD"
    VERIFY = "VERIFY"
    INSTALL = "INSTALL"
    BUILD = "BUILD"
    PROBE = "PROBE"
    SHADOW = "SHADOW"
    ACTIVATE = "ACTIVATE"
    COMMIT = "COMMIT"
    ROLL_BACK = "ROLL_BACK"


# The wave of devices that are left out: no build for their type, pinned, deleted meanwhile, or another rollout's.
LEFT_OUT = -1


class RolloutDevice(BaseModel):
    device: str
    wave: int
    # What it shall serve; kept here, so that choosing another build later changes no rollout under way.
    bundle: str = ""
    # The name of the build that it comes from.
    build: str = ""
    # Rank among the priorities of the spec.
    priority: int = 0
    state: RolloutDeviceState = RolloutDeviceState.WAITING
    generation: int = 0
    # The newest generation from before this rollout: a later one for the bundle is its own, noted or not.
    since_generation: int = 0
    step: Step | None = None
    message: str = ""
    updated_at: datetime | None = None
    # Off line for so long that its wave goes on without it.
    late: bool = False
    # What the comparison with the version before came to.
    shadow: str = ""


class Wave(BaseModel):
    index: int
    device_count: int = 0
    succeeded_count: int = 0
    failed_count: int = 0
    started_at: datetime | None = None
    soaked_at: datetime | None = None


class RolloutView(SQLModel):
    id: str = Field(primary_key=True)
    # Empty as the version is, where it brings agents: those are no project's.
    project: str = Field(index=True)
    model_version: str
    # "0.1.0+1795762884": the release of the agent that it brings; empty where it brings a model.
    agent_version: str = ""
    state: RolloutState = RolloutState.RUNNING
    reason: str = ""
    # None in rollouts from before it was kept: nobody joins them later.
    selector: str | None = None
    spec: RolloutSpec = Field(default=RolloutSpec(), sa_type=json_of(RolloutSpec))
    waves: list[Wave] = Field(default=[], sa_type=json_of(list[Wave]))
    devices: list[RolloutDevice] = Field(default=[], sa_type=json_of(list[RolloutDevice]))
    created_at: datetime = Field(default_factory=utc_now, sa_type=UTC_TIME)
    ended_at: datetime | None = Field(default=None, sa_type=UTC_TIME)
    # When it came into its state; None where that was before this was kept.
    state_at: datetime | None = Field(default_factory=utc_now, sa_type=UTC_TIME, index=True)
    # The rollout that this one takes back, "" for none.
    rolls_back: str = ""

    @property
    def brings(self) -> str:
        """What devices get by it, for people: the name of a model version, or an agent."""
        return self.model_version or f"agent {self.agent_version}"


class Rollout(RolloutView, table=True):
    request_id: str = Field(default="", index=True)

    def enter(self, state: RolloutState, reason: str, now: datetime) -> None:
        """Come into a state. What goes on from one that had ended has not ended any more."""
        self.state, self.reason, self.state_at = state, reason, now
        self.ended_at = None if state in OPEN else now
