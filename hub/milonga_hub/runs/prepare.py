"""Decide what a run works on: data set version, device types with their limits and targets, and what to train on from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from milonga_compiler.engines import ENGINES, BuildSite

from milonga_hub.devices.models import Device
from milonga_hub.devices.rules import usable_targets
from milonga_hub.errors import FailedPrecondition
from milonga_hub.projects.models import ProjectSpec, SearchStrategy
from milonga_hub.projects.rules import check_parts, limits_among
from milonga_hub.rollouts.models import Rollout, RolloutState
from milonga_hub.runs.models import Trigger
from milonga_hub.runs.plan import RunPlan, TypePlan
from milonga_hub.runs.rules import continues, tightest
from milonga_hub.runs.stages import Report
from milonga_hub.runs.work import Work


async def prepare(work: Work, report: Report) -> RunPlan:
    plan = RunPlan.read(work.folder)
    check_parts(plan.spec if plan else work.services.runs.spec(work.run.name))
    if plan is None:
        plan = _decide(work)
        plan.write(work.folder)
    work.services.runs.change(work.run.name, dataset_version=plan.dataset_version, base_run=plan.base_run)
    report(0.2, f"preparing pictures of {plan.dataset_version}")
    await asyncio.to_thread(
        work.services.datasets.write_training_data,
        plan.dataset_version,
        plan.spec.training.resolution_px,
        work.folder,
        plan.spec.training.preprocessing,
    )
    report(1.0, f"{plan.dataset_version} for {plan.for_whom}", types=len(plan.types))
    return plan


def _decide(work: Work) -> RunPlan:
    spec = work.services.runs.spec(work.run.name)
    dataset = work.services.datasets.latest(spec.dataset)
    types = planned_types(work, spec)
    base_run, base, learned = _base(work, spec, list(dataset.classes))
    return RunPlan(
        spec=spec,
        dataset_version=dataset.name,
        classes=dataset.classes,
        types=types,
        base_run=base_run,
        base_supernet=base,
        base_learned=learned,
    )


def planned_types(work: Work, spec: ProjectSpec) -> list[TypePlan]:
    """Return the types of the devices that the project is for. Raises FailedPrecondition where there is none to build for."""
    by_type: dict[str, list[Device]] = {}
    for device in work.services.devices.matching(spec.selector):
        by_type.setdefault(device.device_type, []).append(device)
    if not by_type:
        wanted = f"that match {spec.selector!r}" if spec.selector else "yet"
        raise FailedPrecondition(
            f"there are no devices {wanted}; enrol one (milonga tokens create, then milonga-agent run on the"
            f" device), then go on with: milonga runs resume {work.run.name}"
        )
    return [_plan_type(work, name, devices, spec) for name, devices in sorted(by_type.items())]


def _plan_type(work: Work, name: str, devices: Sequence[Device], spec: ProjectSpec) -> TypePlan:
    limits = tightest(limits_among(spec, map(work.services.devices.attributes, devices)))
    # The first device's defaults are those of all: what decides of them is part of what a type is.
    wanted = spec.build.targets or work.services.devices.default_targets(devices[0].inventory)
    usable = [set(usable_targets(wanted, device.inventory)) for device in devices]
    targets = [target for target in wanted if all(target in known for known in usable)]
    if not targets:
        engines = sorted({engine.name for device in devices for engine in device.inventory.engines})
        named = f"of the project ({', '.join(spec.build.targets)})" if spec.build.targets else "that the hub can build"
        raise FailedPrecondition(
            f"no target {named} runs on device type {name}, which has"
            f" {', '.join(engines) or 'no engine'}; install one there, for example: pip install"
            " 'milonga-agent[onnxruntime]'"
        )
    if all(ENGINES[target.partition("/")[0]].build_site is BuildSite.DEVICE for target in targets):
        raise FailedPrecondition(
            f"device type {name} would build {', '.join(targets)} itself, with nothing to search by or to fall back to; add a"
            " target such as onnxruntime/fp32 to the project, and install it there: pip install"
            " 'milonga-agent[onnxruntime]'"
        )
    # Devices of one type have one kind of processor: it is part of what a type is.
    left_out = [target for target in wanted if target not in targets]
    architecture = devices[0].inventory.architecture
    return TypePlan(name=name, limits=limits, targets=targets, architecture=architecture, left_out=left_out)


def _base(work: Work, spec: ProjectSpec, classes: list[str]) -> tuple[str, str, int]:
    """Return run and supernet to train on from, the newest that went live and still fits, and the number of the version that it learned."""
    if work.run.trigger is Trigger.APPLY or spec.search.strategy is SearchStrategy.BASELINE:
        return "", "", 0
    for rollout in live_rollouts(work):
        version = work.services.models.get_version(rollout.model_version)
        if not version.run or not version.supernet:
            continue
        known = work.services.datasets.get_version(version.dataset_version)
        if continues(work.services.runs.spec(version.run), spec) and list(known.classes) == classes:
            return version.run, version.supernet, known.number
    return "", "", 0


def live_rollouts(work: Work) -> list[Rollout]:
    rollouts, _ = work.services.rollouts.list(work.run.project, page_size=100)
    done = [rollout for rollout in rollouts if rollout.state is RolloutState.SUCCEEDED]
    return sorted(done, key=lambda rollout: rollout.created_at, reverse=True)
