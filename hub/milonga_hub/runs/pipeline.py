"""The loop of one run: prepare, train, profile, search, build, compare, roll out.

Every stage can be repeated: jobs return what they finished, measurements and builds are kept by name, a rollout is
created once. A run that was interrupted therefore starts at the top and passes silently over what is done.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milonga_hub.blobs import BlobStore, digest_of_file
from milonga_hub.builds.models import Build, BuildState
from milonga_hub.builds.rules import BuildFigures, choose_build
from milonga_hub.builds.service import BuildService
from milonga_hub.datasets.service import DatasetService
from milonga_hub.devices.models import Device, File, Measurement
from milonga_hub.devices.service import DeviceService, MeasurementItem
from milonga_hub.errors import FailedPrecondition
from milonga_hub.events import EventBus
from milonga_hub.jobs import run_job
from milonga_hub.models.models import ModelVersion
from milonga_hub.models.service import ModelService
from milonga_hub.projects.rules import limits_for
from milonga_hub.rollouts.models import RolloutDeviceState, RolloutState
from milonga_hub.rollouts.service import RolloutService
from milonga_hub.runs.models import Candidate, Run, RunState, Trigger
from milonga_hub.runs.plan import RunPlan, TypePlan
from milonga_hub.runs.rules import continues, tightest, usable_targets
from milonga_hub.runs.service import RunService
from milonga_hub.runs.stages import Report, stage
from milonga_hub.search import rules as search_rules

# A line through fewer points says nothing of its error.
MIN_MEASUREMENTS = 4


@dataclass(frozen=True)
class Services:
    """What a run works with."""

    events: EventBus
    blobs: BlobStore
    folder: Path
    datasets: DatasetService
    devices: DeviceService
    models: ModelService
    builds: BuildService
    rollouts: RolloutService
    runs: RunService
    # One job at a time: training and search use all cores.
    cpu: asyncio.Semaphore


@dataclass(frozen=True)
class Choice:
    """The subnet that a device type gets."""

    type: TypePlan
    candidate: dict[str, Any]
    measured_ms: float | None


@dataclass(frozen=True)
class Specialised:
    """What the search ended with: choices by type, and why other types have none."""

    choices: Mapping[str, Choice]
    impossible: Mapping[str, str]


class Pipeline:
    def __init__(self, services: Services, run: Run) -> None:
        self._services = services
        self._run = run
        self._folder = services.folder / run.project / str(run.number)

    async def work(self) -> str:
        """Do the run from wherever it stands and return its outcome in words."""
        plan = await self._stage("prepare", self._prepare)
        trained = await self._stage("train", lambda report: self._train(plan, report))
        profiled = await self._stage("profile", lambda report: self._profile(plan, trained, report))
        found = await self._stage("search", lambda report: self._search(plan, trained, profiled, report))
        version = await self._stage("build", lambda report: self._build(plan, trained, found, report))
        better = await self._stage("compare", lambda report: self._compare(version, report))
        if not better:
            return self._with_impossible(f"{version.name} is not better than what the devices run: they keep it", found)
        await self._stage("rollout", lambda report: self._roll_out(plan, version, better, report))
        return self._with_impossible(f"{version.name} is live on {', '.join(sorted(better))}", found)

    async def _stage(self, name: str, work: Any) -> Any:
        return await stage(self._services.runs, self._run.name, name, work)

    async def _job(self, kind: str, folder: str, spec: dict[str, Any], tell: Any) -> dict[str, Any]:
        async with self._services.cpu:
            return await run_job(kind, spec, (self._folder / folder).absolute(), tell)

    @property
    def _data(self) -> str:
        return str((self._folder / "data.npz").absolute())

    # prepare

    async def _prepare(self, report: Report) -> RunPlan:
        plan = RunPlan.read(self._folder)
        if plan is None:
            plan = self._decide()
            plan.write(self._folder)
        self._services.runs.change(self._run.name, dataset_version=plan.dataset_version, base_run=plan.base_run)
        report(0.2, f"preparing pictures of {plan.dataset_version}")
        await asyncio.to_thread(
            self._services.datasets.write_arrays,
            plan.dataset_version,
            plan.spec.training.resolution_px,
            Path(self._data),
        )
        report(1.0, f"{plan.dataset_version} for {', '.join(item.name for item in plan.types)}", types=len(plan.types))
        return plan

    def _decide(self) -> RunPlan:
        spec = self._services.runs.spec(self._run.name)
        dataset = self._services.datasets.latest(spec.dataset)
        by_type: dict[str, list[Device]] = {}
        for device in self._services.devices.matching(spec.selector):
            by_type.setdefault(device.device_type, []).append(device)
        if not by_type:
            wanted = f"that match {spec.selector!r}" if spec.selector else "yet"
            raise FailedPrecondition(
                f"there are no devices {wanted}; enrol one (milonga tokens create, then milonga-agent run on the"
                f" device), then go on with: milonga runs resume {self._run.name}"
            )
        types = [self._plan_type(name, devices, spec) for name, devices in sorted(by_type.items())]
        base_run, base = self._base(spec, list(dataset.classes))
        return RunPlan(
            spec=spec,
            dataset_version=dataset.name,
            classes=dataset.classes,
            types=types,
            base_run=base_run,
            base_supernet=base,
        )

    def _plan_type(self, name: str, devices: Sequence[Device], spec: Any) -> TypePlan:
        limits = tightest([limits_for(spec, self._services.devices.attributes(device)) for device in devices])
        usable = [set(usable_targets(spec.build.targets, device.inventory)) for device in devices]
        targets = [target for target in spec.build.targets if all(target in known for known in usable)]
        if not targets:
            engines = sorted({engine.name for device in devices for engine in device.inventory.engines})
            raise FailedPrecondition(
                f"no target of the project ({', '.join(spec.build.targets)}) runs on device type {name}, which has"
                f" {', '.join(engines) or 'no engine'}; install one there, for example: pip install"
                " 'milonga-agent[onnxruntime]'"
            )
        return TypePlan(name=name, limits=limits, targets=targets)

    def _base(self, spec: Any, classes: list[str]) -> tuple[str, str]:
        """Return the run and supernet to train on from: the newest that went live and still fits."""
        if self._run.trigger is Trigger.APPLY:
            return "", ""
        for rollout in self._live_rollouts():
            version = self._services.models.get_version(rollout.model_version)
            if not version.run or not version.supernet:
                continue
            known = self._services.datasets.get_version(version.dataset_version)
            if continues(self._services.runs.spec(version.run), spec) and list(known.classes) == classes:
                return version.run, version.supernet
        return "", ""

    def _live_rollouts(self) -> list[Any]:
        rollouts, _ = self._services.rollouts.list(self._run.project, page_size=100)
        done = [rollout for rollout in rollouts if rollout.state is RolloutState.SUCCEEDED]
        return sorted(done, key=lambda rollout: rollout.created_at, reverse=True)

    # train

    async def _train(self, plan: RunPlan, report: Report) -> dict[str, Any]:
        training = plan.spec.training
        base = str(self._services.blobs.path(plan.base_supernet).absolute()) if plan.base_supernet else None
        seen: set[float] = set()

        def tell(progress: Any) -> None:
            epoch = progress.metrics.get("epoch")
            if epoch is not None and "loss" in progress.metrics and epoch not in seen:
                seen.add(epoch)
                self._services.runs.add_training_point(self._run.name, dict(progress.metrics))
            report.of_job()(progress)

        result = await self._job(
            "train",
            "train",
            {
                "data": self._data,
                "space": training.space,
                "resolution_px": training.resolution_px,
                "epochs": training.retrain_epochs if base else training.epochs,
                "batch_size": training.batch_size,
                "learning_rate": training.learning_rate,
                "seed": training.seed,
                "threads": self._threads(plan),
                "base_checkpoint": base,
            },
            tell,
        )
        report(
            1.0,
            f"smallest subnet {result['accuracy_smallest']:.1%}, largest {result['accuracy_largest']:.1%}"
            + (f", trained on from {plan.base_run}" if base else ""),
            accuracy_largest=result["accuracy_largest"],
            accuracy_smallest=result["accuracy_smallest"],
        )
        return result

    @staticmethod
    def _threads(plan: RunPlan) -> int:
        return plan.spec.training.threads or os.cpu_count() or 1

    # profile

    async def _profile(self, plan: RunPlan, trained: dict[str, Any], report: Report) -> dict[str, Any]:
        search, training = plan.spec.search, plan.spec.training
        spec = {
            "checkpoint": trained["checkpoint"],
            "count": search.measured_subnets,
            "seed": search.seed,
            "resolution_px": training.resolution_px,
        }
        result = await self._job("profile", "profile", spec, report.of_job(0.0, 0.2))
        wanted = {item.name: result["subnets"] for item in plan.types}
        measured = await self._measure(plan, wanted, "profile", report, start=0.2)
        for item in plan.types:
            good = [one for one in measured[item.name] if one.median_ms is not None]
            if len(good) < MIN_MEASUREMENTS:
                errors = sorted({one.error for one in measured[item.name] if one.error})
                raise FailedPrecondition(
                    f"only {len(good)} of {len(measured[item.name])} measurements on {item.name} succeeded:"
                    f" {'; '.join(errors) or 'no answer'}; see the log of its agent, then: milonga runs resume"
                    f" {self._run.name}"
                )
        report(
            1.0,
            f"{len(result['subnets'])} subnets measured on each of {len(plan.types)} device types",
            measurements=sum(len(items) for items in measured.values()),
        )
        return {"subnets": result["subnets"], "measured": measured}

    async def _measure(
        self, plan: RunPlan, wanted: Mapping[str, Sequence[dict[str, Any]]], purpose: str, report: Report, start: float
    ) -> dict[str, list[Measurement]]:
        """Measure subnets ({"subnet", "onnx"}) by type; types on different machines are measured side by side."""
        types = {item.name: item for item in plan.types}
        items = {
            name: [self._item(types[name], subnet) for subnet in subnets] for name, subnets in wanted.items() if subnets
        }
        return await self._measure_items(items, purpose, report, start)

    def _item(self, type_: TypePlan, subnet: Mapping[str, Any]) -> MeasurementItem:
        path = Path(subnet["onnx"])
        self._services.blobs.put_file(path)
        file = File(path="model.onnx", digest=digest_of_file(path), size_bytes=path.stat().st_size)
        # Subnets are timed as they come, in fp32; what precision gains is measured on the builds.
        return MeasurementItem(subnet=subnet["subnet"], engine=type_.engine, precision="fp32", files=[file])

    async def _measure_items(
        self, items: Mapping[str, list[MeasurementItem]], purpose: str, report: Report, start: float = 0.0
    ) -> dict[str, list[Measurement]]:
        done = dict.fromkeys(items, 0)
        total = sum(len(some) for some in items.values())

        async def one(name: str) -> list[Measurement]:
            def tell(count: int, _: int) -> None:
                done[name] = count
                finished = sum(done.values())
                report(start + (1 - start) * finished / max(1, total), f"measured {finished} of {total} on the devices")

            return await self._services.devices.measure(name, items[name], self._run.name, purpose, tell)

        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(one(name)) for name in items}
        return {name: task.result() for name, task in tasks.items()}

    # search

    async def _search(
        self, plan: RunPlan, trained: dict[str, Any], profiled: dict[str, Any], report: Report
    ) -> Specialised:
        result = await self._job("search", "search", self._search_spec(plan, trained, profiled), report.of_job(0, 0.6))
        found = {name: one["candidates"] for name, one in result["types"].items()}
        measured = await self._measure(plan, found, "verify", report, start=0.6)
        choices: dict[str, Choice] = {}
        impossible: dict[str, str] = {}
        for item in plan.types:
            times = {one.subnet: one.median_ms for one in measured.get(item.name, []) if one.median_ms is not None}
            chosen = search_rules.choose(found[item.name], times, item.limits.model_dump())
            if chosen is None:
                fastest = result["types"][item.name]["fastest"]
                impossible[item.name] = search_rules.explain_impossible(
                    item.name, item.limits.model_dump(), fastest, times
                )
            else:
                choices[item.name] = Choice(item, chosen, times.get(chosen["subnet"]))
            self._keep(item.name, result["types"][item.name], times, chosen)
        if not choices:
            raise FailedPrecondition(" ".join(impossible.values()))
        self._tell_search(result, choices, impossible, report)
        return Specialised(choices, impossible)

    def _search_spec(self, plan: RunPlan, trained: dict[str, Any], profiled: dict[str, Any]) -> dict[str, Any]:
        encodings = {subnet["subnet"]: subnet["encoding"] for subnet in profiled["subnets"]}
        search = plan.spec.search

        def measurements(name: str) -> list[dict[str, Any]]:
            return [
                {"subnet": one.subnet, "encoding": encodings[one.subnet], "median_ms": one.median_ms}
                for one in profiled["measured"][name]
                if one.median_ms is not None
            ]

        return {
            "checkpoint": trained["checkpoint"],
            "data": self._data,
            "types": [
                {
                    "name": item.name,
                    "limits": item.limits.model_dump(exclude_none=True, exclude={"selector"}),
                    "engine": item.engine,
                    "precision": "fp32",
                    "measurements": measurements(item.name),
                }
                for item in plan.types
            ],
            "evaluated_subnets": search.evaluated_subnets,
            "population": search.population,
            "generations": search.generations,
            "verified_candidates": search.verified_candidates,
            "seed": search.seed,
            "threads": self._threads(plan),
        }

    def _keep(
        self, device_type: str, found: dict[str, Any], times: Mapping[str, float], chosen: dict[str, Any] | None
    ) -> None:
        front = {item["subnet"] for item in found["front"]}
        rows = {item["subnet"]: item for item in [*found["front"], *found["candidates"]]}
        fields = set(Candidate.model_fields)
        self._services.runs.keep_candidates(
            [
                Candidate(
                    **{key: value for key, value in row.items() if key in fields},
                    key=f"{self._run.name}|{device_type}|{subnet}",
                    run=self._run.name,
                    device_type=device_type,
                    measured_ms=times.get(subnet),
                    on_front=subnet in front,
                    chosen=chosen is not None and subnet == chosen["subnet"],
                )
                for subnet, row in rows.items()
            ]
        )

    @staticmethod
    def _tell_search(
        result: dict[str, Any], choices: Mapping[str, Choice], impossible: Mapping[str, str], report: Report
    ) -> None:
        errors = {
            f"latency_error {name}": one["latency_model"]["held_out_relative_error"]
            for name, one in result["types"].items()
            if one["latency_model"]["held_out_relative_error"] is not None
        }
        words = [
            f"{name}: {choice.candidate['description']}, predicted {choice.candidate['predicted_ms']:.3g} ms,"
            f" measured {choice.measured_ms:.3g} ms"
            for name, choice in choices.items()
            if choice.measured_ms is not None
        ]
        report(1.0, "; ".join([*words, *impossible.values()]), **errors)

    @staticmethod
    def _with_impossible(outcome: str, found: Specialised) -> str:
        return " ".join([f"{outcome}.", *found.impossible.values()])

    # build

    async def _build(
        self, plan: RunPlan, trained: dict[str, Any], found: Specialised, report: Report
    ) -> ModelVersion:
        services, choices = self._services, found.choices
        version = services.models.create_version(
            model=self._run.project,
            run=self._run.name,
            dataset_version=plan.dataset_version,
            supernet=await asyncio.to_thread(services.blobs.put_file, Path(trained["checkpoint"])),
            subnets={name: choice.candidate["subnet"] for name, choice in choices.items()},
            accuracies={name: choice.candidate["accuracy"] for name, choice in choices.items()},
        )
        builds: dict[str, list[Build]] = {}
        for index, (name, choice) in enumerate(choices.items()):
            share = 0.7 / len(choices)
            spec = self._build_spec(plan, trained, choice, version)
            result = await self._job(
                "build", f"build/{name}", spec, report.of_job(share * index, share * (index + 1))
            )
            predicted = choice.candidate["predicted_ms"]
            builds[name] = await asyncio.to_thread(
                services.builds.record, version.name, name, result["builds"], predicted
            )
        await self._choose_builds(choices, builds, report)
        return version

    def _build_spec(
        self, plan: RunPlan, trained: dict[str, Any], choice: Choice, version: ModelVersion
    ) -> dict[str, Any]:
        return {
            "onnx": choice.candidate["onnx"],
            "logits": choice.candidate["logits"],
            "data": self._data,
            "mean": trained["mean"],
            "std": trained["std"],
            "targets": choice.type.targets,
            "max_accuracy_loss_points": plan.spec.build.max_accuracy_loss_points,
            "calibration_count": plan.spec.build.calibration_count,
            "manifest": {
                "project": self._run.project,
                "model_version": version.name,
                "subnet": choice.candidate["subnet"],
                "classes": plan.classes,
                "task": plan.spec.task.value.lower(),
                "size_px": plan.spec.training.resolution_px,
                "expected_ms": choice.measured_ms,
            },
            "seed": plan.spec.training.seed,
            "threads": self._threads(plan),
        }

    async def _choose_builds(
        self, choices: Mapping[str, Choice], builds: Mapping[str, list[Build]], report: Report
    ) -> None:
        verified = {
            name: [build for build in some if build.state is BuildState.VERIFIED] for name, some in builds.items()
        }
        for name, some in verified.items():
            if not some:
                reasons = "; ".join(f"{build.engine}/{build.precision}: {build.reason}" for build in builds[name])
                raise FailedPrecondition(f"no build for {name} passed its gate: {reasons}")
        items = {name: [self._build_item(build) for build in some] for name, some in verified.items()}
        measured = await self._measure_items(items, "build", report, start=0.7)
        words = []
        for name, some in verified.items():
            times = {(one.engine, one.precision): one.median_ms for one in measured[name]}
            for build in some:
                median = times.get((build.engine, build.precision))
                if median is not None:
                    self._services.builds.set_measured(build.name, median)
            figures = [self._figures(build, times.get((build.engine, build.precision))) for build in some]
            best = choose_build(figures, choices[name].type.limits.latency_ms)
            if best is None:
                raise FailedPrecondition(
                    f"no build for {name} was measured within {choices[name].type.limits.latency_ms:g} ms; raise the"
                    " limit in the project file, then: milonga apply -f FILE"
                )
            self._services.builds.choose(best.name)
            words.append(f"{name}: {best.engine}/{best.precision}")
        report(1.0, ", ".join(words), builds=sum(len(some) for some in builds.values()))

    @staticmethod
    def _build_item(build: Build) -> MeasurementItem:
        return MeasurementItem(
            subnet=build.subnet, engine=build.engine, precision=build.precision, files=list(build.files)
        )

    @staticmethod
    def _figures(build: Build, measured_ms: float | None) -> BuildFigures:
        return BuildFigures(
            name=build.name,
            engine=build.engine,
            precision=build.precision,
            accuracy=build.accuracy if build.accuracy is not None else 0.0,
            measured_ms=measured_ms,
            size_bytes=build.size_bytes,
        )

    # compare

    async def _compare(self, version: ModelVersion, report: Report) -> list[str]:
        """Return the device types for which the new version is better, or the only one."""
        challengers = self._services.builds.chosen(version.name)
        champions = self._champions()
        better = [name for name in challengers if name not in champions]
        words = []
        for index, name in enumerate(sorted(set(challengers) & set(champions))):
            folder = self._folder / "compare" / name
            builds = self._services.builds
            spec = {
                "champion": str(builds.unpack(champions[name].bundle, folder / "champion").absolute()),
                "challenger": str(builds.unpack(challengers[name].bundle, folder / "challenger").absolute()),
                "data": self._data,
            }
            result = await self._job("compare", f"compare/{name}/job", spec, report.of_job())
            if result["better"]:
                better.append(name)
            words.append(f"{name}: {result['reason']}")
            figures = {
                f"{who} {group['name']} {name}": group[f"{who}_accuracy"]
                for group in result["groups"]
                for who in ("champion", "challenger")
            }
            report((index + 1) / len(challengers), "; ".join(words), **figures)
        if not words:
            report.skip("the first version for these devices: nothing to compare with")
        return better

    def _champions(self) -> dict[str, Build]:
        """Return by device type the build that devices of the type were last rolled out to."""
        champions: dict[str, Build] = {}
        for rollout in reversed(self._live_rollouts()):
            if rollout.model_version == self._own_version():
                continue
            reached = {
                self._services.devices.get(device.device).device_type
                for device in rollout.devices
                if device.state is RolloutDeviceState.SUCCEEDED
            }
            chosen = self._services.builds.chosen(rollout.model_version)
            champions.update({name: build for name, build in chosen.items() if name in reached})
        return champions

    def _own_version(self) -> str:
        versions, _ = self._services.models.versions(self._run.project, page_size=1000)
        return next((version.name for version in versions if version.run == self._run.name), "")

    # roll out

    async def _roll_out(self, plan: RunPlan, version: ModelVersion, types: Sequence[str], report: Report) -> None:
        rollouts = self._services.rollouts
        among = f"type in ({', '.join(sorted(types))})"
        rollout = rollouts.create(
            version.name,
            self._run.project,
            f"{plan.spec.selector}, {among}" if plan.spec.selector else among,
            plan.spec.rollout,
            request_id=self._run.name,
        )
        try:
            with self._services.events.listen(f"rollouts/{rollout.id}") as news:
                while (rollout := rollouts.get(rollout.id)).state not in (
                    RolloutState.SUCCEEDED,
                    RolloutState.ABORTED,
                ):
                    done = sum(device.state is RolloutDeviceState.SUCCEEDED for device in rollout.devices)
                    paused = rollout.state is RolloutState.PAUSED
                    message = f"{done} of {len(rollout.devices)} devices" + (
                        f"; paused: {rollout.reason}; go on with: milonga rollouts resume {rollout.id}" if paused else ""
                    )
                    report(done / max(1, len(rollout.devices)), message)
                    await news.next()
        except asyncio.CancelledError:
            if self._services.runs.get(self._run.name).state is RunState.CANCELLED:
                rollouts.abort(rollout.id)
            raise
        if rollout.state is RolloutState.ABORTED:
            raise FailedPrecondition(f"rollout {rollout.id} was aborted: {rollout.reason}")
        report(1.0, f"{len(rollout.devices)} devices in {len(rollout.waves)} waves", devices=len(rollout.devices))
