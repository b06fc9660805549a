"""What rollouts need of the other services."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from milonga_hub.builds.models import Build
from milonga_hub.devices.models import Assignment
from milonga_hub.devices.service import AgentRelease, LastStep, Standing, Wanted


class Requests(NamedTuple):
    """What clients asked for, and how much of it failed."""

    total: int = 0
    failed: int = 0
    # As how many one of them counts: failures that come together tell less than they are.
    alike: float = 1.0


# Returns by version what the devices of a project were asked, from one moment to another. Of TelemetryService.
Asked = Callable[[str, datetime, datetime], Mapping[str, Requests]]


class Devices(Protocol):
    """Of DeviceService."""

    def standings(self) -> list[Standing]: ...
    def assignment(self, device: str) -> Assignment | None: ...
    def last_steps(self, generations: Mapping[str, int]) -> dict[str, LastStep]: ...
    def assign_all(self, wanted: Sequence[Wanted]) -> dict[str, int]: ...
    def agent_release(self) -> AgentRelease: ...
    def upgrade_all(self, names: Sequence[str]) -> dict[str, int]: ...


class Builds(Protocol):
    """Of BuildService."""

    def chosen(self, model_version: str) -> dict[str, Build]: ...
    def by_bundle(self, digest: str) -> Build | None: ...
