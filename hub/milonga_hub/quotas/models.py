"""Quotas as an administrator writes them, and what projects use."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel
from pydantic import Field as Bound

from milonga_hub.documents import Kind, Spec

GIGABYTE = 10**9
_COUNT = 2**31 - 1


class QuotaSpec(Spec):
    """What a project may take; what is left out is without limit."""

    # Of pictures in its data set, pictures of its devices, and builds.
    storage_gigabytes: Annotated[float, Bound(gt=0, le=9e9)] | None = None
    devices: Annotated[int, Bound(ge=1, le=_COUNT)] | None = None
    # Those that have not ended: under way, queued, or waiting for approval.
    runs_at_a_time: Annotated[int, Bound(ge=1, le=_COUNT)] | None = None
    runs_per_day: Annotated[int, Bound(ge=1, le=_COUNT)] | None = None


class QuotasSpec(Spec):
    """The quotas of a hub. A project that is named has those alone, and not the default's."""

    default: QuotaSpec = QuotaSpec()
    projects: dict[str, QuotaSpec] = Bound(default={})


QUOTAS_FILE = Kind("Quotas", QuotasSpec, "fleet_configs/quotas")


class ProjectQuota(BaseModel):
    """What one project may take; None is without limit."""

    storage_bytes: int | None = None
    devices: int | None = None
    runs_at_a_time: int | None = None
    runs_per_day: int | None = None


class ProjectUsage(BaseModel):
    """What a project takes now, and what it may."""

    project: str
    # All versions of its data set together; a data set of two projects counts for both.
    dataset_bytes: int = 0
    # Pictures of its devices that are not part of a data set.
    sample_bytes: int = 0
    build_bytes: int = 0
    device_count: int = 0
    open_run_count: int = 0
    # Started in the last 24 hours.
    day_run_count: int = 0
    quota: ProjectQuota = ProjectQuota()
    # Of all its builds that came to devices: what they have in all, what was moved for that, and what of it came from neighbours.
    whole_bytes: int = 0
    moved_bytes: int = 0
    neighbour_bytes: int = 0

    @property
    def hub_bytes(self) -> int:
        """What the hub sent of its builds."""
        return self.moved_bytes - self.neighbour_bytes

    @property
    def storage_bytes(self) -> int:
        return self.dataset_bytes + self.sample_bytes + self.build_bytes
