"""Compare what was built with what the devices run, and roll out what is better."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from milonga_hub.builds.models import Build
from milonga_hub.errors import FailedPrecondition
from milonga_hub.models.models import ModelVersion
from milonga_hub.rollouts.models import RolloutDeviceState, RolloutState
from milonga_hub.runs import orders
from milonga_hub.runs.models import Comparison, RunState
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.prepare import live_rollouts
from milonga_hub.runs.stages import Report
from milonga_hub.runs.work import Work


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
