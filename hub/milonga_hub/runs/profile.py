"""Measure a few subnets on a device of each type, and more where they do not suffice to predict all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from milonga_compiler.files import write_atomically

from milonga_hub.devices.models import Measurement
from milonga_hub.errors import FailedPrecondition
from milonga_hub.runs import orders
from milonga_hub.runs.measure import measure_subnets, of_targets, why_failed
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.profiled import Profiled, Quality, Row
from milonga_hub.runs.stages import Report
from milonga_hub.runs.work import Work

# A line through fewer points says nothing of its error.
MIN_MEASUREMENTS = 4
# What is known at its end, in the run's folder.
PROFILED = "profiled.json"
# Shares of the stage: exporting, the first measurements, and all further ones.
_EXPORTED, _MEASURED, _JUDGED = 0.2, 0.7, 0.95


async def profile(work: Work, plan: RunPlan, trained: dict[str, Any], report: Report) -> Profiled:
    path = work.folder / PROFILED
    if path.exists():
        profiled = Profiled.model_validate_json(path.read_text(encoding="utf-8"))
    else:
        profiled = await _first(work, plan, trained, report)
        await _until_trusted(work, plan, trained, profiled, report)
        write_atomically(path, profiled.model_dump_json(indent=1))
    _tell(plan, profiled, report)
    return profiled


async def _first(work: Work, plan: RunPlan, trained: dict[str, Any], report: Report) -> Profiled:
    history = work.kept("history.json", lambda: _history(work, plan))
    spec = orders.profiling(plan, work.place(plan), trained["checkpoint"], history)
    result = await work.job("profile", "profile", spec, report.of_job(0.0, _EXPORTED))
    wanted = {item.name: of_targets(result["subnets"], item.searched) for item in plan.types}
    measured = await _measured(work, plan, wanted, report, _EXPORTED, _MEASURED)
    for name, some in measured.items():
        check_measured(work, name, some)
    profiled = Profiled(history=history, costs=result["costs"])
    profiled.add(measured, result["subnets"])
    return profiled


async def _measured(
    work: Work, plan: RunPlan, wanted: Mapping[str, Sequence[Row]], report: Report, start: float, end: float
) -> dict[str, list[Measurement]]:
    training = plan.spec.training
    subnets = [one for some in wanted.values() for one in some]
    work.services.search.remember(training.space, training.resolution_px, subnets)
    return await measure_subnets(work, wanted, "profile", report, start, end)


def check_measured(work: Work, device_type: str, measured: Sequence[Measurement]) -> None:
    """Raise FailedPrecondition where too few measurements succeeded to say anything."""
    good = sum(one.median_ms is not None for one in measured)
    if good < MIN_MEASUREMENTS:
        raise FailedPrecondition(
            f"only {good} of {len(measured)} measurements on {device_type} succeeded: {why_failed(work, measured)}"
        )


async def _until_trusted(
    work: Work, plan: RunPlan, trained: dict[str, Any], profiled: Profiled, report: Report
) -> None:
    """Measure what each untrusted latency model asks for, until it is trusted or the budget of its type is spent."""
    first = {name: len(rows) for name, rows in profiled.measured.items()}
    for number in count():
        further = {name: len(rows) - first[name] for name, rows in profiled.measured.items()}
        left = {name: plan.spec.search.further_measurements - count for name, count in further.items()}
        spec = orders.judging(plan, work.place(plan), trained["checkpoint"], profiled, left)
        # A folder for each round, so that a run that is resumed finds all of them again.
        judged = await work.job("judge", f"profile/judged/{number}", spec, report.of_job(_MEASURED, _MEASURED))
        profiled.quality = {
            name: Quality.of(found["precisions"], further[name]) for name, found in judged["types"].items()
        }
        wanted = {name: found["subnets"] for name, found in judged["types"].items() if found["subnets"]}
        if not wanted:
            return
        measured = await _measured(work, plan, wanted, report, _MEASURED, _JUDGED)
        profiled.add(measured, [one for some in wanted.values() for one in some])


def _history(work: Work, plan: RunPlan) -> list[dict[str, Any]]:
    """Return what device types outside the run measured before of the same space; with another engine they are others."""
    training, own = plan.spec.training, {(item.name, item.engine) for item in plan.types}
    known = work.services.search.measured(training.space, training.resolution_px)
    return [
        {"device_type": f"{name} with {engine}", "measurements": some}
        for (name, engine), some in known.items()
        if (name, engine) not in own
    ]


def _tell(plan: RunPlan, profiled: Profiled, report: Report) -> None:
    said = [f"{plan.spec.search.measured_subnets} subnets measured on each of {len(plan.types)} device types"]
    if profiled.history:
        said[0] += f", with what {len(profiled.history)} others measured before"
    said += [_judgement(name, one) for name, one in profiled.quality.items()]
    if not all(one.trusted for one in profiled.quality.values()):
        said.append(
            "let nothing else run on devices while they are measured, or allow more further measurements"
            " (spec.search.further_measurements)"
        )
    report(
        1.0,
        "; ".join(said),
        measurements=sum(len(rows) for rows in profiled.measured.values()),
        **{f"latency_error {name}": one.held_out_relative_error for name, one in profiled.quality.items()},
        **{f"latency_trusted {name}": float(one.trusted) for name, one in profiled.quality.items()},
        **{f"further_measurements {name}": float(one.further) for name, one in profiled.quality.items()},
    )


def _judgement(name: str, quality: Quality) -> str:
    verdict = "is trusted" if quality.trusted else "is not to be trusted"
    after = f" after {quality.further} further measurements" if quality.further else ""
    error = f"off by {quality.held_out_relative_error:.1%} on subnets held out"
    return f"the latency model of {name} {verdict}{after} ({error})"
