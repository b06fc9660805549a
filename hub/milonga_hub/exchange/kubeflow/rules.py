"""Which subnet and which build a device type gets where no device can be asked: by what devices measured before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from milonga_compiler.bundle import BESIDE_THE_MODEL

from milonga_hub.builds.rules import BuildFigures
from milonga_hub.projects.models import Limits
from milonga_hub.runs.plan import RunPlan
from milonga_hub.search import rules as search_rules

Row = dict[str, Any]


def with_limits(plan: RunPlan, limits: Mapping[str, Mapping[str, Any]]) -> RunPlan:
    """Return the plan with other limits for the device types that are named. Raises ValueError for a name that is none."""
    unknown = sorted(set(limits) - {item.name for item in plan.types})
    if unknown:
        known = ", ".join(item.name for item in plan.types)
        raise ValueError(f"limits are given for {', '.join(unknown)}; the run has the device types {known}")
    # As JSON, whose whole numbers come as fractions where a pipeline hands them on.
    types = [
        item.model_copy(update={"limits": Limits.model_validate(_whole(limits[item.name]))})
        if item.name in limits
        else item
        for item in plan.types
    ]
    return plan.model_copy(update={"types": types})


def _whole(limits: Mapping[str, Any]) -> dict[str, Any]:
    counts = ("model_bytes", "memory_bytes")
    return {name: int(value) if name in counts and value is not None else value for name, value in limits.items()}


def times(candidates: Sequence[Row], measured: Mapping[str, Any]) -> tuple[dict[search_rules.Timed, float], list[Row]]:
    """Return the latency that each candidate is held to, and those that no device measured.

    These are held to the upper end of what is predicted of them: a device would have had the last word.
    """
    known = {
        search_rules.timed(row): row["median_ms"]
        for row in [*measured["subnets"], *measured["candidates"]]
        if row["median_ms"] is not None
    }
    unknown = [row for row in candidates if search_rules.timed(row) not in known]
    found = {search_rules.timed(row): row["predicted_high_ms"] for row in unknown}
    return {**found, **known}, unknown


def chosen(
    candidates: Sequence[Row], limits: Mapping[str, Any], measured: Mapping[str, Any]
) -> tuple[Row | None, float | None, bool]:
    """Return the candidate that a type gets as a hub would choose it, its latency in ms, and whether a device measured that."""
    found, unknown = times(candidates, measured)
    row = search_rules.choose(candidates, found, limits)
    if row is None:
        return None, None, False
    timed = search_rules.timed(row)
    return row, found[timed], all(search_rules.timed(one) != timed for one in unknown)


def build_figures(
    results: Sequence[Row], subnet: str, precision: str, ms: float, measured: Mapping[str, Any]
) -> list[BuildFigures]:
    """Return the builds of a subnet as the choice among them looks at them.

    One counts with what the run's devices measured of the same subnet built for the same target; where they did not, the
    subnet's own latency stands for its build in the precision that was searched for.
    """
    known = {(one["subnet"], one["target"]): one["median_ms"] for one in measured["builds"]}
    return [
        BuildFigures(
            name=f"{one['engine']}/{one['precision']}",
            engine=one["engine"],
            precision=one["precision"],
            accuracy=one["accuracy"] or 0.0,
            measured_ms=known.get(
                (subnet, f"{one['engine']}/{one['precision']}"), ms if one["precision"] == precision else None
            ),
            model_bytes=sum(file["size_bytes"] for file in one["files"] if file["path"] not in BESIDE_THE_MODEL),
            size_bytes=one["size_bytes"],
            objection="" if one["state"] == "VERIFIED" else f"it is {one['state'].lower()}: {one['reason']}",
        )
        for one in results
    ]
