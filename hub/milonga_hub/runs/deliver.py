"""Build the chosen subnets, compare them with what the devices run, and roll out what is better."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milonga_hub.builds.models import Build, BuildState
from milonga_hub.builds.rules import BuildFigures, decisions, figures, rejected
from milonga_hub.builds.service import item_of
from milonga_hub.errors import FailedPrecondition
from milonga_hub.models.models import ModelVersion
from milonga_hub.projects.models import Limits
from milonga_hub.rollouts.models import RolloutDeviceState, RolloutState
from milonga_hub.runs import orders
from milonga_hub.runs.candidates import Choice, Specialised
from milonga_hub.runs.measure import measure_items
from milonga_hub.runs.models import Comparison, RunState
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.prepare import live_rollouts
from milonga_hub.runs.stages import Report
from milonga_hub.runs.tuning import how_tuned
from milonga_hub.runs.work import Work


async def build(
    work: Work, plan: RunPlan, trained: dict[str, Any], found: Specialised, report: Report
) -> tuple[ModelVersion, Specialised]:
    """Return the new version, and what the search found less the device types for which no build can be used."""
    services, choices = work.services, found.choices
    version = services.models.create_version(
        model=work.run.project,
        run=work.run.name,
        dataset_version=plan.dataset_version,
        supernet=await asyncio.to_thread(services.blobs.put_file, Path(trained["checkpoint"]))
        if trained["checkpoint"]
        else "",
        subnets={name: choice.candidate["subnet"] for name, choice in choices.items()},
        accuracies={
            name: choice.candidate["accuracy"]
            for name, choice in choices.items()
            if choice.candidate["accuracy"] is not None
        },
        imported=work.run.imported,
        task=plan.spec.task,
        checkpoints={
            name: await asyncio.to_thread(services.blobs.put_file, Path(choice.candidate["checkpoint"]))
            for name, choice in choices.items()
            if choice.candidate["checkpoint"]
        },
    )
    builds: dict[str, list[Build]] = {}
    for index, (name, choice) in enumerate(choices.items()):
        share = 0.7 / len(choices)
        tuning = await asyncio.to_thread(how_tuned, work, plan, choice.type)
        made = orders.Made(work.run.project, version.name, tuning.told["tuning_database"])
        spec = orders.building(plan, work.place(plan), choice.type, choice.candidate, choice.measured_ms, made)
        spec |= tuning.told
        tell, question = report.of_job(share * index, share * (index + 1)), tuning.question(report, share * index)
        result = await work.job("build", f"build/{name}", spec, tell, question)
        predicted, limits = choice.candidate.get("predicted_ms"), choice.type.limits
        kept = {**spec, **tuning.afterwards}
        services.builds.orders.keep(version.name, name, kept, limits.latency_ms, limits.model_bytes, predicted)
        builds[name] = await asyncio.to_thread(
            services.builds.record, version.name, name, result["builds"], predicted, plan.spec.task
        )
    left_out = await _choose_builds(work, choices, builds, report)
    able = {name: choice for name, choice in choices.items() if name not in left_out}
    return version, Specialised(able, {**found.impossible, **left_out})


async def _choose_builds(
    work: Work, choices: Mapping[str, Choice], builds: Mapping[str, list[Build]], report: Report
) -> dict[str, str]:
    """Have what can be sent measured, and take the fastest that passes its gates; return why types have none."""
    runnable = {name: [one for one in some if not rejected(one)] for name, some in builds.items()}
    # Devices run nothing that is not signed, not even to measure it.
    work.services.builds.demand_signed(build for some in runnable.values() for build in some)
    items = {name: [item_of(build) for build in some] for name, some in runnable.items() if some}
    measured = await measure_items(work, items, "build", report, start=0.7)
    words, left_out = [], {}
    for name, some in builds.items():
        results = {(one.engine, one.precision): one for one in measured.get(name, [])}
        for build in runnable[name]:
            one = results[build.engine, build.precision]
            work.services.builds.set_measured(
                build.name, one.median_ms, one.median_half_width_ms, one.device, one.error
            )
            if build.state is BuildState.BUILT and build.made_on_devices:
                told, _ = work.services.devices.device_builds(one.device, build.bundle)
                work.services.builds.prove(build.name, one, told)
        limits, fresh = choices[name].type.limits, [work.services.builds.get(build.name) for build in some]
        best = work.services.builds.select(fresh, limits.latency_ms, limits.model_bytes)
        if best is None:
            left_out[name] = _none_fits(work, name, [figures(build) for build in fresh], limits)
        else:
            words.append(f"{name}: {best.target}")
    if not words:
        raise FailedPrecondition(" ".join(left_out.values()))
    report(1.0, "; ".join([", ".join(words), *left_out.values()]), builds=sum(len(some) for some in builds.values()))
    return left_out


def _none_fits(work: Work, device_type: str, candidates: Sequence[BuildFigures], limits: Limits) -> str:
    reasons = decisions(candidates, None, limits.latency_ms, limits.model_bytes)
    told = "; ".join(f"{one.target} {reasons[one.name]}" for one in candidates)
    return (
        f"no build for {device_type} can be used: {told}; raise the limits, or allow one that is not verified (milonga build"
        f" override), then: milonga runs resume {work.run.name}"
    )


async def compare(work: Work, plan: RunPlan, version: ModelVersion, report: Report) -> list[str]:
    """Return the device types for which the new version is better, or the only one."""
    challengers = work.services.builds.chosen(version.name)
    champions = _champions(work)
    better = [name for name in challengers if name not in champions]
    words = []
    for index, name in enumerate(sorted(set(challengers) & set(champions))):
        folder = work.folder / "compare" / name
        builds = work.services.builds
        champion = str(builds.unpack(champions[name].bundle, folder / "champion").absolute())
        challenger = str(builds.unpack(challengers[name].bundle, folder / "challenger").absolute())
        learned = _learned(work, plan, champions[name].model_version)
        spec = orders.comparing(plan, work.place(plan), champion, challenger, learned)
        result = await work.job("compare", f"compare/{name}/job", spec, report.of_job())
        if result["better"]:
            better.append(name)
        words.append(f"{name}: {result['reason']}")
        compared = Comparison(
            device_type=name,
            champion=champions[name].model_version,
            challenger=version.name,
            **{key: result[key] for key in ("better", "p_value", "reason", "groups", "classes")},
        )
        work.services.runs.keep_comparison(work.run.name, compared)
        shares = {
            f"{who} {group['name']} {name}": group[f"{who}_accuracy"]
            for group in [*result["groups"], _together(result["groups"])]
            for who in ("champion", "challenger")
        }
        report((index + 1) / len(challengers), "; ".join(words), **shares)
    if not words:
        report.skip("the first version for these devices: nothing to compare with")
    return better


def _learned(work: Work, plan: RunPlan, model_version: str) -> int:
    """Return the number of the data set's version that a model learned from; 0 where it learned from another data set, or from none."""
    known = work.services.models.get_version(model_version).dataset_version
    if not known or known.rpartition("/versions/")[0] != plan.dataset_version.rpartition("/versions/")[0]:
        return 0
    return work.services.datasets.get_version(known).number


def _champions(work: Work) -> dict[str, Build]:
    """Return by device type the build that devices of the type were last rolled out to."""
    champions: dict[str, Build] = {}
    types = {device.name: device.device_type for device in work.services.devices.outlines()}
    for rollout in reversed(live_rollouts(work)):
        if rollout.model_version == _own_version(work):
            continue
        # Devices that were deleted since run nothing that could be compared with.
        reached = {
            types[device.device]
            for device in rollout.devices
            if device.state is RolloutDeviceState.SUCCEEDED and device.device in types
        }
        chosen = work.services.builds.chosen(rollout.model_version)
        champions.update({name: build for name, build in chosen.items() if name in reached})
    return champions


def _own_version(work: Work) -> str:
    version = work.services.models.of_run(work.run.project, work.run.name)
    return version.name if version else ""


async def roll_out(work: Work, plan: RunPlan, version: ModelVersion, types: Sequence[str], report: Report) -> None:
    rollouts = work.services.rollouts
    known, _ = rollouts.list(work.run.project, page_size=1000)
    # A rollout that was aborted stays so: a resumed run makes a new one.
    aborted = sum(one.model_version == version.name and one.state is RolloutState.ABORTED for one in known)
    among = f"type in ({', '.join(sorted(types))})"
    rollout = rollouts.create(
        version.name,
        work.run.project,
        f"{plan.spec.selector}, {among}" if plan.spec.selector else among,
        plan.spec.rollout,
        request_id=f"{work.run.name}:{aborted}",
    )
    try:
        with work.services.events.listen(f"rollouts/{rollout.id}") as news:
            while (rollout := rollouts.get(rollout.id)).state not in (
                RolloutState.SUCCEEDED,
                RolloutState.ABORTED,
            ):
                done = sum(device.state is RolloutDeviceState.SUCCEEDED for device in rollout.devices)
                hint = {
                    RolloutState.PAUSED: f"; paused: {rollout.reason}; go on with: milonga rollouts resume {rollout.id}",
                    RolloutState.AWAITING_APPROVAL: f"; waits for approval: milonga rollouts approve {rollout.id}",
                }.get(rollout.state, "")
                report(done / max(1, len(rollout.devices)), f"{done} of {len(rollout.devices)} devices{hint}")
                await news.next()
    except asyncio.CancelledError:
        if work.services.runs.get(work.run.name).state is RunState.CANCELLED:
            rollouts.abort(rollout.id)
        raise
    if rollout.state is RolloutState.ABORTED:
        raise FailedPrecondition(f"rollout {rollout.id} was aborted: {rollout.reason}")
    report(1.0, f"{len(rollout.devices)} devices in {len(rollout.waves)} waves", devices=len(rollout.devices))


def _together(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the accuracies over all groups, weighted by their size."""
    count = sum(group["count"] for group in groups)
    figures = {
        key: sum(group[key] * group["count"] for group in groups) / max(1, count)
        for key in ("champion_accuracy", "challenger_accuracy")
    }
    return {"name": "all", "count": count, **figures}
