"""What rollouts need of the other services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from milonga_hub.builds.models import Build
from milonga_hub.devices.models import Assignment
from milonga_hub.devices.service import LastStep, Standing, Wanted


class Devices(Protocol):
    """Of DeviceService."""

    def standings(self) -> list[Standing]: ...
    def assignment(self, device: str) -> Assignment | None: ...
    def last_steps(self, generations: Mapping[str, int]) -> dict[str, LastStep]: ...
    def assign_all(self, wanted: Sequence[Wanted]) -> dict[str, int]: ...


class Builds(Protocol):
    """Of BuildService."""

    def chosen(self, model_version: str) -> dict[str, Build]: ...
    def by_bundle(self, digest: str) -> Build | None: ...
