"""Build the chosen subnets for all of their types' targets, and take of each type's builds the fastest that may be used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from milonga_hub.builds.models import Build
from milonga_hub.builds.rules import Allowed, rejected
from milonga_hub.errors import FailedPrecondition
from milonga_hub.models.models import ModelVersion
from milonga_hub.runs import orders
from milonga_hub.runs.candidates import Choice, Specialised, change
from milonga_hub.runs.finetune import finetuned
from milonga_hub.runs.measure import measure_builds
from milonga_hub.runs.plan import RunPlan
from milonga_hub.runs.stages import Report
from milonga_hub.runs.tuning import how_tuned
from milonga_hub.runs.work import Work
from milonga_hub.search.rules import short_digest

# Share of an attempt that builds; the rest measures.
_BUILDS = 0.7
# Share of the stage that each attempt leaves to those after it.
_LEFT = 0.2


async def build(
    work: Work, plan: RunPlan, trained: dict[str, Any], found: Specialised, report: Report
) -> tuple[ModelVersion, Specialised]:
    """Return the new version, and what the search found less the device types for which no build can be used.

    Where none of a subnet's builds can be, its type gets the next best that its device has measured: files get larger than
    was estimated where layers stay in floats, and an engine may lose too much of one network and not of another.
    """
    version = await _registered(work, plan, trained, found.choices)
    attempt = _Attempt(work, plan, trained, found, version.name, report, 0.0, 1.0 - _LEFT)
    # Where a run goes on, a type may have been given another subnet before.
    choices = {
        name: choice
        if (subnet := version.subnets.get(name, choice.subnet)) == choice.subnet
        else await attempt.prepared(_skipped(choice, subnet))
        for name, choice in found.choices.items()
    }
    able: dict[str, Choice] = {}
    left_out: dict[str, str] = {}
    words: list[str] = []
    while choices:
        builds = {}
        for index, (name, choice) in enumerate(choices.items()):
            builds[name] = await attempt.build(choice, index / len(choices), 1 / len(choices))
        chosen, refused = await attempt.choose(choices, builds)
        able |= {name: choices[name] for name in chosen}
        words += [f"{name}: {one.target}" for name, one in chosen.items()]
        left_out |= {name: _none_fits(work, name, why) for name, why in refused.items() if not choices[name].others}
        attempt = attempt.after()
        choices = {
            name: await attempt.given_way(choices[name], why) for name, why in refused.items() if name not in left_out
        }
    if not able:
        raise FailedPrecondition(" ".join(left_out.values()))
    made = sum(len(item.targets) for item in plan.types if item.name in found.choices)
    report(1.0, "; ".join([", ".join(words), *left_out.values()]), builds=made)
    return work.services.models.get_version(version.name), Specialised(able, {**found.impossible, **left_out})


async def _registered(
    work: Work, plan: RunPlan, trained: Mapping[str, Any], choices: Mapping[str, Choice]
) -> ModelVersion:
    services = work.services
    return services.models.create_version(
        model=work.run.project,
        run=work.run.name,
        dataset_version=plan.dataset_version,
        supernet=await asyncio.to_thread(services.blobs.put_file, Path(trained["checkpoint"]))
        if trained["checkpoint"]
        else "",
        subnets={name: choice.subnet for name, choice in choices.items()},
        accuracies={
            name: choice.candidate["accuracy"]
            for name, choice in choices.items()
            if choice.candidate["accuracy"] is not None
        },
        imported=work.run.imported,
        task=plan.spec.task,
        checkpoints={
            name: digest for name, choice in choices.items() if (digest := await _checkpoint(work, choice.candidate))
        },
    )


async def _checkpoint(work: Work, candidate: Mapping[str, Any]) -> str:
    """Return the blob of the subnet as its family's own tools load it; "" where there is no such file."""
    if not candidate["checkpoint"]:
        return ""
    return await asyncio.to_thread(work.services.blobs.put_file, Path(candidate["checkpoint"]))


@dataclass(frozen=True)
class _Attempt:
    """One subnet for each of some types, built and measured: the share of the stage from `start` to `end`."""

    work: Work
    plan: RunPlan
    trained: Mapping[str, Any]
    found: Specialised
    version: str
    report: Report
    start: float
    end: float

    def after(self) -> _Attempt:
        return replace(self, start=self.end, end=1.0 - _LEFT * (1.0 - self.end))

    def at(self, share: float) -> float:
        return self.start + (self.end - self.start) * share

    async def build(self, choice: Choice, begun: float, share: float) -> list[Build]:
        """Build a subnet for all of its type's targets; `begun` and `share` are those of the attempt's builds."""
        work, plan, name = self.work, self.plan, choice.type.name
        start, end = self.at(_BUILDS * begun), self.at(_BUILDS * (begun + share))
        tuning = await asyncio.to_thread(how_tuned, work, plan, choice.type)
        made = orders.Made(work.run.project, self.version, tuning.told["tuning_database"])
        spec = orders.building(plan, work.place(plan), choice.type, choice.candidate, choice.measured_ms, made)
        spec |= tuning.told
        tell, question = self.report.of_job(start, end), tuning.question(self.report, start)
        first = choice.subnet == self.found.choices[name].subnet
        folder = f"build/{name}" if first else f"build/{name}/{short_digest(choice.subnet)}"
        result = await work.job("build", folder, spec, tell, question)
        predicted = choice.candidate.get("predicted_ms")
        kept, builds = {**spec, **tuning.afterwards}, work.services.builds
        builds.orders.keep(self.version, name, kept, _allowed(choice), predicted)
        return await asyncio.to_thread(builds.record, self.version, name, result["builds"], predicted, plan.spec.task)

    async def choose(
        self, choices: Mapping[str, Choice], builds: Mapping[str, Sequence[Build]]
    ) -> tuple[dict[str, Build], dict[str, str]]:
        """Have what can be sent measured; return of each type the fastest that passes its gates, or why none does."""
        services = self.work.services
        runnable = {name: [one for one in some if not rejected(one)] for name, some in builds.items()}
        # Devices run nothing that is not signed, not even to measure it.
        services.builds.demand_signed(build for some in runnable.values() for build in some)
        to_measure = {name: some for name, some in runnable.items() if some}
        await measure_builds(self.work, to_measure, self.report, self.at(_BUILDS), self.end)
        chosen: dict[str, Build] = {}
        refused: dict[str, str] = {}
        for name, some in builds.items():
            fresh = [services.builds.get(build.name) for build in some]
            best = services.builds.select(fresh, _allowed(choices[name]))
            if best is None:
                refused[name] = "; ".join(f"{one.target} {services.builds.get(one.name).decision}" for one in fresh)
            else:
                chosen[name] = best
        return chosen, refused

    async def given_way(self, choice: Choice, why: str) -> Choice:
        """Return the next best subnet for the type, which is the version's from now on."""
        work, name = self.work, choice.type.name
        self.report(
            self.start, f"{name}: takes the next best subnet, for no build of the one before can be used: {why}"
        )
        following = await self.prepared(choice.next())
        checkpoint = await _checkpoint(work, following.candidate)
        work.services.models.change_subnet(
            self.version, name, following.subnet, following.candidate["accuracy"], checkpoint
        )
        change(work, name, choice.candidate, chosen=False, note=f"no build of it can be used: {why}")
        change(work, name, following.candidate, chosen=True)
        return following

    async def prepared(self, choice: Choice) -> Choice:
        """Return a choice that is not the search's first, trained on alone where the project asks for it."""
        if not self.plan.spec.training.finetune_epochs:
            return choice
        tell = self.report.of_job(self.start, self.start)
        return await finetuned(self.work, self.plan, self.trained, self.found, choice, tell)


def _allowed(choice: Choice) -> Allowed:
    limits = choice.type.limits
    return Allowed(limits.latency_ms, limits.model_bytes, limits.memory_bytes)


def _none_fits(work: Work, device_type: str, why: str) -> str:
    return (
        f"no build for {device_type} can be used: {why}; raise the limits, or allow one that is not verified (milonga build"
        f" override), then: milonga runs resume {work.run.name}"
    )


def _skipped(choice: Choice, subnet: str) -> Choice:
    """Return the choice of this subnet among those that follow."""
    while choice.subnet != subnet and choice.others:
        choice = choice.next()
    return choice
