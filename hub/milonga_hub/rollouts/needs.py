"""What rollouts need of the other services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from milonga_hub.builds.models import Build
from milonga_hub.devices.models import Assignment, Device, File, ShadowSpec, StepLog


class Devices(Protocol):
    """Of DeviceService."""

    def matching(self, selector: str) -> list[Device]: ...
    def attributes(self, device: Device) -> Mapping[str, str]: ...
    def get(self, name: str) -> Device: ...
    def assignment(self, device: str) -> Assignment | None: ...
    def steps(self, device: str, generation: int | None = None) -> list[StepLog]: ...
    def assign(
        self,
        device: str,
        bundle: str,
        files: Sequence[File],
        model_version: str,
        project: str,
        engine: str,
        expected_ms: float = 0.0,
        shadow: ShadowSpec | None = None,
    ) -> int: ...


class Builds(Protocol):
    """Of BuildService."""

    def chosen(self, model_version: str) -> dict[str, Build]: ...
    def by_bundle(self, digest: str) -> Build | None: ...
