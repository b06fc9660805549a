"""Without a search: the most complex of five fixed networks that a device type runs within its limits, trained alone.

Latency does not depend on weights, so all levels are measured before any is trained, and only chosen ones are. Types that
choose the same level share one training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from milonga_hub.errors import FailedPrecondition
from milonga_hub.runs import orders
from milonga_hub.runs.candidates import Choice, Specialised, keep
from milonga_hub.runs.measure import (
    measure_subnets,
    median_times,
    of_targets,
    peaks,
    target_of,
    why_failed,
    with_memory,
)
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.stages import Report
from milonga_hub.runs.train import assess, trained
from milonga_hub.runs.work import Work
from milonga_hub.search import rules as search_rules

Row = dict[str, Any]
# Levels ("subnets"), and by device type what was measured of them: [subnet, precision, ms, bytes of memory], 0 where unknown.
Levels = dict[str, Any]

# Share of the stage that exports.
_EXPORTED = 0.2


async def measure_levels(work: Work, plan: RunPlan, report: Report) -> Levels:
    """Measure every level in every precision on a device of each type."""
    training = plan.spec.training
    spec = {
        "space": training.space,
        "resolution_px": training.resolution_px,
        "classes": len(plan.classes),
        "targets": plan.searched,
        "seed": training.seed,
        "threads": work.threads(plan, "levels"),
    }
    subnets = (await work.job("levels", "levels", spec, report.of_job(0.0, _EXPORTED)))["subnets"]
    work.services.search.remember(training.space, training.resolution_px, subnets)
    wanted = {item.name: of_targets(subnets, item.searched) for item in plan.types}
    measured = await measure_subnets(work, wanted, "profile", report, _EXPORTED)
    times = {name: median_times(some) for name, some in measured.items()}
    memory = {name: peaks(some) for name, some in measured.items()}
    for name, found in times.items():
        if not found:
            raise FailedPrecondition(f"no level could be measured on {name}: {why_failed(work, measured[name])}")
    report(
        1.0,
        f"{len({one['level'] for one in subnets})} levels measured on each of {len(plan.types)} device types",
        measurements=sum(len(some) for some in times.values()),
    )
    # Kept, so that a run that is resumed chooses the same.
    kept: dict[str, Any] = work.kept(
        "measured_levels.json",
        lambda: {
            name: [[*key, ms, memory[name].get(key, 0)] for key, ms in found.items()] for name, found in times.items()
        },
    )
    return {"subnets": subnets, "times": kept}


async def choose_levels(work: Work, plan: RunPlan, levels: Levels, report: Report) -> Specialised:
    choices: dict[str, Choice] = {}
    impossible: dict[str, str] = {}
    for item in plan.types:
        times = _times(levels, item.name)
        rows = with_memory(of_targets(levels["subnets"], item.searched), _peaks(levels, item.name))
        limits = item.limits.model_dump()
        chosen = search_rules.choose_level(rows, times, limits)
        if chosen is None:
            fastest = min(
                (row for row in rows if search_rules.timed(row) in times),
                key=lambda row: times[search_rules.timed(row)],
            )
            impossible[item.name] = search_rules.explain_impossible(item.name, limits, fastest, times)
        else:
            choices[item.name] = Choice(item, chosen, times[search_rules.timed(chosen)])
        keep(work, item.name, [{**row, "note": f"level {row['level']}"} for row in rows], times, chosen)
    if not choices:
        raise FailedPrecondition(" ".join(impossible.values()))
    words = [
        f"{name}: level {choice.candidate['level']} ({choice.candidate['description']}) in {choice.candidate['precision']},"
        f" measured {choice.measured_ms:.3g} ms"
        for name, choice in choices.items()
    ]
    figures = {f"level {name}": float(choice.candidate["level"]) for name, choice in choices.items()}
    report(1.0, "; ".join([*words, *impossible.values()]), **figures)
    return Specialised(choices, impossible)


async def train_levels(
    work: Work, plan: RunPlan, levels: Levels, chosen: Specialised, report: Report
) -> tuple[dict[str, Any], Specialised]:
    """Train each chosen level once; return what all trainings share, and the choices with accuracies and files."""
    wanted = {choice.candidate["level"]: choice.candidate for choice in chosen.choices.values()}
    result: dict[str, Any] = {}
    assessed: dict[int, dict[str, Row]] = {}
    for index, (level, row) in enumerate(sorted(wanted.items())):
        start, share = index / len(wanted), 1 / len(wanted)
        tell, before = report.of_job(start, start + 0.9 * share), index * plan.spec.training.epochs
        spec = {**orders.training(plan, work.place(plan)), "alone": row["settings"]}
        result = await trained(work, f"train/level{level}", spec, tell, before)
        assessed[level] = await assess(work, plan, f"assess/level{level}", result["checkpoint"], plan.searched)
    found = _with_accuracies(work, plan, levels, chosen, assessed)
    said = [f"level {level} {max(one['accuracy'] for one in rows.values()):.1%}" for level, rows in assessed.items()]
    figures = {
        f"accuracy level {level}": rows[target_of(wanted[level])]["accuracy"] for level, rows in assessed.items()
    }
    report(1.0, "; ".join([*said, *found.impossible.values()]), **figures)
    # There is no supernet that a later run could train on from.
    return {**result, "checkpoint": ""}, found


def _with_accuracies(
    work: Work, plan: RunPlan, levels: Levels, chosen: Specialised, assessed: Mapping[int, Mapping[str, Row]]
) -> Specialised:
    """Return the choices that are accurate enough; what was trained is shown with its accuracy."""
    choices: dict[str, Choice] = {}
    impossible = dict(chosen.impossible)
    for name, choice in chosen.choices.items():
        one, floor = choice.candidate, choice.type.limits.min_accuracy
        candidate = {**one, **assessed[one["level"]][target_of(one)]}
        rows = [
            {**row, "note": f"level {row['level']}", **assessed.get(row["level"], {}).get(target_of(row), {})}
            for row in of_targets(levels["subnets"], choice.type.searched)
        ]
        enough = floor is None or candidate["accuracy"] >= floor
        keep(work, name, rows, _times(levels, name), candidate if enough else None)
        if enough:
            choices[name] = replace(choice, candidate=candidate)
        else:
            impossible[name] = (
                f"level {one['level']}, the most complex that {name} runs within its limits, reaches"
                f" {candidate['accuracy']:.1%} {plan.spec.task.measure}, {floor:.1%} is asked for; train longer, lower min_accuracy or raise the other limits in the"
                " project file, and apply it again"
            )
    if not choices:
        raise FailedPrecondition(" ".join(impossible.values()))
    return Specialised(choices, impossible)


def _times(levels: Levels, device_type: str) -> dict[search_rules.Timed, float]:
    return {(subnet, precision): ms for subnet, precision, ms, *_ in levels["times"][device_type]}


def _peaks(levels: Levels, device_type: str) -> dict[search_rules.Timed, int]:
    """Return the memory that was measured; runs of before kept none."""
    rows = levels["times"][device_type]
    return {(subnet, precision): told[0] for subnet, precision, _, *told in rows if told and told[0]}
