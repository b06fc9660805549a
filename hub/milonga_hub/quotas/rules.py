"""What still fits, and what to tell where it does not. Pure."""

from __future__ import annotations

from milonga_hub.quotas.models import GIGABYTE, ProjectQuota, ProjectUsage, QuotasSpec


def quota_of(spec: QuotasSpec, project: str) -> ProjectQuota:
    """Return what the project may take."""
    found = spec.projects.get(project, spec.default)
    storage = found.storage_gigabytes
    return ProjectQuota(
        storage_bytes=None if storage is None else round(storage * GIGABYTE),
        devices=found.devices,
        runs_at_a_time=found.runs_at_a_time,
        runs_per_day=found.runs_per_day,
    )


def no_room(usage: ProjectUsage, added_bytes: int) -> str:
    """Return why the project may not keep so much more; "" where it may."""
    limit = usage.quota.storage_bytes
    if limit is None or usage.storage_bytes + added_bytes <= limit:
        return ""
    parts = f"data set {_size(usage.dataset_bytes)}, pictures of devices {_size(usage.sample_bytes)}, builds {_size(usage.build_bytes)}"
    return (
        f"{usage.project} uses {_size(usage.storage_bytes)} ({parts}) of the {_size(limit)} that it may, and this would add"
        f" {_size(added_bytes)}; discard pictures that wait (milonga samples discard {usage.project}), or {_ASK}"
    )


def no_device(usage: ProjectUsage) -> str:
    """Return why no further device may be the project's; "" where one may."""
    limit = usage.quota.devices
    if limit is None or usage.device_count < limit:
        return ""
    return (
        f"{usage.project} has {usage.device_count} of the {limit} devices that it may; remove one (milonga devices delete), give"
        f" this one labels that its selector does not name, or {_ASK}"
    )


def no_run(usage: ProjectUsage) -> str:
    """Return why no run of the project may start; "" where one may."""
    quota = usage.quota
    if quota.runs_at_a_time is not None and usage.open_run_count >= quota.runs_at_a_time:
        return (
            f"{usage.project} has {usage.open_run_count} of the {quota.runs_at_a_time} runs that it may have at a time; wait for one,"
            f" end one (milonga runs cancel), or {_ASK}"
        )
    if quota.runs_per_day is not None and usage.day_run_count >= quota.runs_per_day:
        return f"{usage.project} started {usage.day_run_count} runs in 24 hours, and may start {quota.runs_per_day}; wait, or {_ASK}"
    if quota.devices is not None and usage.device_count > quota.devices:
        return (
            f"{usage.project} is for {usage.device_count} devices, and may be for {quota.devices}; let its selector name fewer, or"
            f" {_ASK}"
        )
    return no_room(usage, 0)


_ASK = "ask for a larger quota (docs/quotas.md)"


def _size(count: int) -> str:
    for unit, width in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= width:
            return f"{count / width:.1f} {unit}"
    return f"{count} bytes"
