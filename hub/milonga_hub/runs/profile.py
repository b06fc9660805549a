"""Measure a few subnets on a device of each type, and more where they do not suffice to predict all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from milonga_compiler.files import write_atomically
from milonga_compiler.target import Target

from milonga_hub.devices.models import Measurement
from milonga_hub.errors import FailedPrecondition, NotFound
from milonga_hub.runs import orders, rules_reuse
from milonga_hub.runs.measure import measure_subnets, of_targets, target_of, why_failed
from milonga_hub.runs.plan import RunPlan, TypePlan
from milonga_hub.runs.profiled import Earlier, Profiled, Quality
from milonga_hub.runs.rules_reuse import Row
from milonga_hub.runs.stages import Report
from milonga_hub.runs.work import Work

# A line through fewer points says nothing of its error.
MIN_MEASUREMENTS = 4
# What is known at its end, in the run's folder.
PROFILED = "profiled.json"
# Shares of the stage: exporting, the first measurements, and all further ones.
_EXPORTED, _MEASURED, _JUDGED = 0.2, 0.7, 0.95
# Where what earlier runs measured is looked at first.
_TAKEN_AGAIN = 0.45
# Name of the figure that says whether a type's latency model is trusted.
_TRUSTED = "latency_trusted {}"


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
    """Measure a few on each type; of those that earlier runs measured, only whether that still holds."""
    history = work.kept("history.json", lambda: _elsewhere(work, plan))
    before = work.kept("before.json", lambda: _before(work, plan))
    again = {item.name: _again(plan, item, before.get(item.name, [])) for item in plan.types}
    again = {name: rows for name, rows in again.items() if rows}
    fresh = [item for item in plan.types if item.name not in again]
    end = _TAKEN_AGAIN if again else _MEASURED
    spec = orders.profiling(plan, work.place(plan), trained["checkpoint"], history, fresh, _named(again))
    result = await work.job("profile", "profile", spec, report.of_job(0.0, _EXPORTED))
    wanted = {item.name: of_targets(result["subnets"], item.searched) for item in fresh}
    wanted |= {name: _exported(result["again"], rows) for name, rows in again.items()}
    measured = await _measured(work, plan, wanted, report, _EXPORTED, end)
    for item in fresh:
        check_measured(work, item.name, measured[item.name])
    profiled = Profiled(history=history, costs=result["costs"])
    profiled.add(measured, [*result["subnets"], *result["again"]])
    profiled.judge_earlier({name: before[name] for name in again})
    await _anew(work, plan, trained, profiled, report)
    return profiled


async def _anew(work: Work, plan: RunPlan, trained: dict[str, Any], profiled: Profiled, report: Report) -> None:
    """Measure types of which what earlier runs measured does not hold any more, as if nothing had been."""
    stale = [item for item in plan.types if item.name in profiled.earlier and not profiled.holds(item.name)]
    if not stale:
        return
    spec = orders.profiling(plan, work.place(plan), trained["checkpoint"], profiled.history, stale)
    result = await work.job("profile", "profile/anew", spec, report.of_job(_TAKEN_AGAIN, _TAKEN_AGAIN))
    wanted = {item.name: of_targets(result["subnets"], item.searched) for item in stale}
    measured = await _measured(work, plan, wanted, report, _TAKEN_AGAIN, _MEASURED)
    for item in stale:
        check_measured(work, item.name, measured[item.name])
    profiled.add(measured, result["subnets"])


def _again(plan: RunPlan, item: TypePlan, before: Sequence[Row]) -> list[Row]:
    """Return which of a type's earlier measurements to take again, each with its target."""
    chosen = rules_reuse.to_take_again(before, _precisions(item), plan.spec.search.measured_subnets)
    return [{**one, "target": f"{item.engine}/{one['precision']}"} for one in chosen]


def _named(again: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Return what is to be built for that, once where types take the same again."""
    named = {(one["subnet"], one["target"]): one for rows in again.values() for one in rows}
    return [{"encoding": one["encoding"], "target": one["target"]} for one in named.values()]


def _exported(subnets: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Return of subnets that were built those that the rows are of."""
    wanted = {(one["subnet"], one["target"]) for one in rows}
    return [one for one in subnets if (one["subnet"], target_of(one)) in wanted]


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


def _elsewhere(work: Work, plan: RunPlan) -> list[Row]:
    """Return what device types outside the run measured before of the same space; with another engine they are others."""
    training, own = plan.spec.training, {(item.name, item.engine) for item in plan.types}
    return [
        {"device_type": f"{name} with {engine}", "measurements": some}
        for (name, engine), some in work.services.search.measured(training.space, training.resolution_px).items()
        if (name, engine) not in own
    ]


def _before(work: Work, plan: RunPlan) -> dict[str, list[Row]]:
    """Return by type of the run what earlier runs measured on it of the same space, with its engine and in its precisions; nothing of
    types whose latencies could not be predicted from it.
    """
    training = plan.spec.training
    taken = work.services.search.taken(training.space, training.resolution_px)
    found = {}
    for item in plan.types:
        precisions = _precisions(item)
        rows = [one for one in taken.get((item.name, item.engine), []) if one["precision"] in precisions]
        if _was_trusted(work, item.name, rows):
            found[item.name] = rules_reuse.standing(rows, precisions[0], plan.spec.search.measured_subnets)
    return found


def _was_trusted(work: Work, device_type: str, taken: Sequence[Row]) -> bool:
    """Return whether the newest run that judged the type's latency model trusted it."""
    key = _TRUSTED.format(device_type)
    for run in reversed(dict.fromkeys(one["run"] for one in taken)):
        with suppress(NotFound):
            stages = work.services.runs.get(run).stages
            judged = next((one.metrics[key] for one in stages if key in one.metrics), None)
            if judged is not None:
                return bool(judged)
    return False


def _precisions(item: TypePlan) -> list[str]:
    return [Target.parse(target).precision for target in item.searched]


def _tell(plan: RunPlan, profiled: Profiled, report: Report) -> None:
    said = [_of_earlier(name, one) for name, one in profiled.earlier.items()]
    anew = [item.name for item in plan.types if not profiled.holds(item.name)]
    if anew:
        who = anew[0] if len(anew) == 1 else f"each of {len(anew)} device types"
        said.append(f"{plan.spec.search.measured_subnets} subnets measured on {who}{_with_others(profiled)}")
    said += [_judgement(name, one) for name, one in profiled.quality.items()]
    if not all(one.trusted for one in profiled.quality.values()):
        said.append(
            "let nothing else run on devices while they are measured, or allow more further measurements"
            " (spec.search.further_measurements)"
        )
    report(
        1.0,
        "; ".join(said),
        measurements=sum(len(rows) for rows in profiled.measured.values()) - profiled.taken_over,
        measured_before=profiled.taken_over,
        **{f"latency_error {name}": one.held_out_relative_error for name, one in profiled.quality.items()},
        **{_TRUSTED.format(name): float(one.trusted) for name, one in profiled.quality.items()},
        **{f"further_measurements {name}": float(one.further) for name, one in profiled.quality.items()},
    )


def _with_others(profiled: Profiled) -> str:
    known = len(profiled.history) - sum(not one.holds for one in profiled.earlier.values())
    if not known:
        return ""
    return f", with what {'another' if known == 1 else f'{known} others'} measured before"


def _of_earlier(name: str, earlier: Earlier) -> str:
    said = f"{earlier.count} earlier measurements of {name}"
    if earlier.change is None:
        return f"{said} could not be taken again"
    verdict = "hold" if earlier.holds else "do not hold any more"
    return f"{said} {verdict} (off by {earlier.change:.1%} where {earlier.again} were taken again)"


def _judgement(name: str, quality: Quality) -> str:
    verdict = "is trusted" if quality.trusted else "is not to be trusted"
    after = f" after {quality.further} further measurements" if quality.further else ""
    error = f"off by {quality.held_out_relative_error:.1%} on subnets held out"
    return f"the latency model of {name} {verdict}{after} ({error})"
