"""Builds: what was made of a model version, and which of it devices get."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from milonga_compiler.errors import UnknownTarget
from milonga_compiler.files import write_atomically
from milonga_compiler.target import Target
from sqlmodel import col, false, func, or_, select

from milonga_hub.blobs import Blobs, digest_of_file
from milonga_hub.builds import rules
from milonga_hub.builds.device_tuning import DeviceTunings
from milonga_hub.builds.models import Build
from milonga_hub.builds.orders import BuildOrders
from milonga_hub.builds.tuned import asked_of_job
from milonga_hub.builds.values import BuildOverride, BuildState, BuildTuning, Gate
from milonga_hub.db import Database, utc_now
from milonga_hub.devices.models import DeviceBuild, File, Measurement
from milonga_hub.devices.service import MeasurementItem, OnProgress, OnRound
from milonga_hub.errors import FailedPrecondition, InvalidInput, MilongaError, NotFound
from milonga_hub.events import EventBus
from milonga_hub.paging import page
from milonga_hub.runs.models import Stage, StageState
from milonga_hub.tasks import Task

# Of a build that is made outside a run.
STAGES = ("build", "measure")
_Builds = list[Build]
_Measurements = list[Measurement]
# The end of a log says why a build failed; 4 MB fit into one message.
MAX_LOG_BYTES = 4_000_000

MANIFEST = "manifest.json"


class Signer(Protocol):
    """What builds need of SigningService."""

    def sign(self, project: str, bundles: Mapping[str, int]) -> None: ...
    def is_signed(self, project: str, bundle: str) -> bool: ...


class Devices(Protocol):
    """What builds need of DeviceService to be measured."""

    def device_builds(self, device: str = "", bundle: str = "") -> tuple[list[DeviceBuild], str]: ...
    async def compare(
        self,
        device_type: str,
        items: Sequence[MeasurementItem],
        run: str,
        purpose: str,
        on_progress: OnProgress,
        on_round: OnRound,
    ) -> list[Measurement]: ...


class BuildService:
    def __init__(self, database: Database, blobs: Blobs, events: EventBus, signer: Signer) -> None:
        self._database = database
        self._blobs = blobs
        self._events = events
        self._signer = signer
        self.orders = BuildOrders(database)
        # The runner's ears and the place of its logs; runner.py sets both.
        self.on_queued: Callable[[], None] = lambda: None
        self.on_cancelled: Callable[[str], None] = lambda name: None
        self.growing_log: Callable[[Build], Path | None] = lambda build: None
        # Known once devices are: app.py sets it.
        self.device_tunings: DeviceTunings

    def start(self, model_version: str, device_type: str, target: str, tuning: BuildTuning | None = None) -> Build:
        """Queue a build of a device type's subnet for one more target; one that is in progress already is returned as it is.

        With `tuning`, its kernels are tuned first. What was built for the target before stays as it is until this build has ended.
        """
        wanted = _parsed(target)
        rules.check_tuning(wanted.engine, tuning)
        self.orders.get(model_version, device_type)
        name = f"{model_version}/builds/{device_type}:{wanted.engine}:{wanted.precision}"
        with self._database.session() as session:
            build = session.get(Build, name) or Build(
                name=name,
                model_version=model_version,
                device_type=device_type,
                engine=wanted.engine,
                precision=wanted.precision,
            )
            if build.in_progress:
                if tuning != build.wanted_tuning:
                    raise FailedPrecondition(
                        f"{name} is being built already, {'untuned' if build.wanted_tuning is None else 'tuned in another way'};"
                        f" wait for it (milonga build watch {name}), or end it first (milonga build cancel {name})"
                    )
                return build
            if build.chosen:
                raise FailedPrecondition(
                    f"{name} is what devices of its type get; choose another first (milonga build choose), or build it in a"
                    " new version (milonga runs start)"
                )
            build.in_progress, build.stages = True, [Stage(name=stage) for stage in STAGES]
            build.wanted_tuning = tuning
            session.add(build)
        self._tell(build)
        self.on_queued()
        return build

    def queued(self) -> _Builds:
        """Return what is or waits to be built outside runs, in the order of their names."""
        with self._database.session() as session:
            return [*session.exec(select(Build).where(col(Build.in_progress)).order_by(col(Build.name)))]

    def change_stage(self, name: str, stage: str, **values: Any) -> Build:
        """Set fields of one stage of a build that is made outside a run; of one that has ended nothing changes any more."""
        build = self.get(name)
        if not build.in_progress:
            return build
        stages = [one.model_copy(update=values) if one.name == stage else one for one in build.stages]
        return self._change(name, stages=stages)

    def end(self, name: str, error: str = "", ended: StageState = StageState.FAILED) -> Build:
        """Close a build that was in progress, and the stage that an error left open. Where nothing was built before, the build is
        REJECTED for the error.
        """
        build, now = self.get(name), utc_now()
        closed = {"state": ended, "message": error, "ended_at": now}
        stages = [
            one.model_copy(update=closed) if error and one.state is StageState.RUNNING else one for one in build.stages
        ]
        values: dict[str, Any] = {"in_progress": False, "stages": stages}
        if error and build.state is BuildState.BUILDING:
            values |= {"state": BuildState.REJECTED, "reason": error}
        return self._change(name, **values)

    def cancel(self, name: str) -> Build:
        """End a build that is made outside a run, also one that waits. What was built before for its target stays as it is."""
        if not self.get(name).in_progress:
            raise FailedPrecondition(
                f"{name} is not being built outside a run; a run is ended by: milonga runs cancel RUN"
            )
        build = self.end(name, "cancelled", StageState.CANCELLED)
        self.on_cancelled(name)
        return build

    def size_bytes(self, project: str) -> int:
        """Return what the builds of a project take."""
        taken = select(func.coalesce(func.sum(Build.size_bytes), 0)).where(
            Build.bundle != "", col(Build.model_version).startswith(f"models/{project}/", autoescape=True)
        )
        with self._database.session() as session:
            return int(session.exec(taken).one())

    @staticmethod
    def tuning_of_job(root: Path, architecture: str, device_type: str, minutes: float) -> dict[str, Any]:
        """Return what a run's build job is told of tuning; `root` is where the project's tuned kernels lie. See tuned.py."""
        return asked_of_job(root, architecture, device_type, minutes)

    def of_type(self, model_version: str, device_type: str) -> _Builds:
        """Return all builds of a device type's subnet."""
        statement = select(Build).where(Build.model_version == model_version, Build.device_type == device_type)
        with self._database.session() as session:
            return [*session.exec(statement.order_by(col(Build.name)))]

    def record(
        self,
        model_version: str,
        device_type: str,
        results: Iterable[Mapping[str, Any]],
        predicted_ms: float | None,
        task: Task = Task.CLASSIFICATION,
    ) -> _Builds:
        """Keep what a build job made, files as blobs first. Recording again changes nothing that was measured since."""
        builds = [self._record(model_version, device_type, result, predicted_ms, task) for result in results]
        self.sign(builds)
        return builds

    def sign(self, builds: Iterable[Build]) -> None:
        """Have those builds signed that devices may run, if only to measure them; for others' keys the signatures are waited for."""
        bundles: dict[str, dict[str, int]] = defaultdict(dict)
        for build in builds:
            if not rules.rejected(build):
                size_bytes = next(file.size_bytes for file in build.files if file.path == MANIFEST)
                bundles[project_of(build)][build.bundle] = size_bytes
        for project, named in bundles.items():
            self._signer.sign(project, named)

    def sign_all(self) -> None:
        """Have all builds signed that are not yet: those of a hub from before it signed any."""
        with self._database.session() as session:
            known = session.exec(select(Build).where(Build.bundle != "")).all()
        self.sign(build for build in known if self._blobs.exists(build.bundle))

    def demand_signed(self, builds: Iterable[Build]) -> None:
        """Raise FailedPrecondition while a build lacks a signature without which no device runs it."""
        waiting = [build.name for build in builds if not self._signer.is_signed(project_of(build), build.bundle)]
        if waiting:
            raise FailedPrecondition(
                f"{', '.join(waiting)}: not signed yet by keys that are not on this hub; see milonga keys status, sign what waits,"
                " then: milonga runs resume RUN"
            )

    def _record(
        self, model_version: str, device_type: str, result: Mapping[str, Any], predicted_ms: float | None, task: Task
    ) -> Build:
        name = f"{model_version}/builds/{device_type}:{result['engine']}:{result['precision']}"
        with self._database.session() as session:
            known = session.get(Build, name)
        tuning = BuildTuning.model_validate(result["tuning"]) if result.get("tuning") else None
        if known is not None and _like(known, result):
            return self._change(name, tuning=tuning) if known.tuning != tuning else known
        files = [File(**file) for file in result["files"]]
        for file in files:
            # The manifest's digest is the bundle's, so the manifest is found by it.
            self._blobs.put_file(Path(result["directory"]) / file.path)
        build = Build(
            name=name,
            model_version=model_version,
            device_type=device_type,
            engine=result["engine"],
            precision=result["precision"],
            state=BuildState(result["state"]),
            reason=result["reason"],
            subnet=self._subnet(result),
            bundle=result["bundle"],
            files=files,
            size_bytes=result["size_bytes"],
            accuracy=result["accuracy"],
            subnet_accuracy=result["subnet_accuracy"],
            max_abs_error=result["max_abs_error"],
            predicted_ms=predicted_ms,
            task=task,
            gates=[Gate(**gate) for gate in result.get("gates", [])],
            log=self._kept_log(result.get("log", "")),
            in_progress=known.in_progress if known else False,
            stages=known.stages if known else [],
            tuning=tuning,
            wanted_tuning=known.wanted_tuning if known else None,
        )
        with self._database.session() as session:
            session.merge(build)
        self._tell(build)
        return build

    def _subnet(self, result: Mapping[str, Any]) -> str:
        return str(self.manifest(result["bundle"])["subnet"]) if result["bundle"] else ""

    def _kept_log(self, path: str) -> str:
        if not path or not Path(path).exists():
            return ""
        text = Path(path).read_bytes()
        return self._blobs.put(text[-MAX_LOG_BYTES:])

    def log(self, name: str) -> str:
        """Return what was done for the build and what its engine printed; of one in progress, as far as it is."""
        build = self.get(name)
        growing = self.growing_log(build) if build.in_progress else None
        if growing is not None and growing.exists():
            return growing.read_bytes()[-MAX_LOG_BYTES:].decode(errors="replace")
        return self._blobs.read(build.log).decode(errors="replace") if build.log else ""

    def set_measured(
        self,
        name: str,
        measured_ms: float | None,
        half_width_ms: float | None = None,
        device: str = "",
        error: str = "",
        memory_bytes: int = 0,
    ) -> Build:
        """Keep the median that a device of the type measured, in milliseconds, or why there is none.

        A figure stays until there is a newer one: it is of this very bundle. `memory_bytes` is the most that its process took, 0 where the
        device did not tell.
        """
        if measured_ms is None and self.get(name).measured_ms is not None:
            return self._change(name, measuring_error=error)
        return self._change(
            name,
            measured_ms=measured_ms,
            measured_half_width_ms=half_width_ms,
            measured_on=device,
            measuring_error=error,
            measured_memory_bytes=memory_bytes or None,
        )

    async def measure(
        self,
        devices: Devices,
        builds: Sequence[Build],
        run: str,
        purpose: str,
        on_progress: OnProgress,
        on_round: OnRound,
    ) -> _Measurements:
        """Have builds of one device type measured in turn until the fastest is known, and keep with each what came of it.

        Those that each device makes for itself are proved by the device that made them, or keep why not.
        """
        items = [item_of(build) for build in builds]
        found = await devices.compare(builds[0].device_type, items, run, purpose, on_progress, on_round)
        for build, one in zip(builds, found, strict=True):
            self.set_measured(
                build.name, one.median_ms, one.median_half_width_ms, one.device, one.error, one.peak_memory_bytes
            )
            if build.state is BuildState.BUILT and build.made_on_devices:
                told, _ = devices.device_builds(one.device, build.bundle)
                self.prove(build.name, one, told)
        return found

    def select(self, builds: Iterable[Build], allowed: rules.Allowed) -> Build | None:
        """Choose the fastest of a device type's builds that passes its gates, and keep with each why it was or was not taken."""
        figures = [rules.figures(build) for build in builds]
        best = rules.choose_build(figures, allowed)
        self._keep_decisions(figures, best, allowed)
        return self.choose(best.name) if best else None

    def compare(self, model_version: str, device_type: str) -> Build | None:
        """Decide anew among a device type's builds, without choosing; return the one that is the fastest within its gates."""
        order = self.orders.get(model_version, device_type)
        figures = [rules.figures(build) for build in self.of_type(model_version, device_type)]
        allowed = rules.Allowed(order.latency_ms, order.model_bytes, order.memory_bytes)
        best = rules.choose_build(figures, allowed)
        self._keep_decisions(figures, best, allowed)
        return self.get(best.name) if best else None

    def _keep_decisions(
        self,
        figures: Iterable[rules.BuildFigures],
        best: rules.BuildFigures | None,
        allowed: rules.Allowed,
    ) -> None:
        for name, words in rules.decisions(list(figures), best, allowed).items():
            build = self.get(name)
            decision = rules.of_choice(words, build.chosen)
            self._change(name, decision=decision, gates=rules.gates_of(build, allowed))

    def override(self, name: str, by: str, reason: str) -> Build:
        """Allow a build on devices that is not VERIFIED, for as long as its bundle stays what it is."""
        build, by, reason = self.get(name), by.strip(), reason.strip()
        if not reason:
            raise InvalidInput(f"say why {name} may be used although it is not verified: give a reason")
        if not by:
            raise InvalidInput("say who allows it: give a name")
        if build.in_progress:
            raise FailedPrecondition(f"{name} is being built; wait for it: milonga build watch {name}")
        if build.state is BuildState.VERIFIED:
            raise FailedPrecondition(f"{name} is verified; it needs no override")
        if not build.bundle:
            raise FailedPrecondition(f"{name} cannot be used: {rules.objection_to(build)}")
        allowed = self._change(name, override=BuildOverride(by=by, at=utc_now(), reason=reason))
        self.sign([allowed])
        return allowed

    def prove(self, name: str, measured: Measurement, told: Iterable[DeviceBuild]) -> Build:
        """Take a build that each device makes for itself as VERIFIED where one of them made and ran it; else keep why not.

        `told` is what that device said of its builds.
        """
        build = self.get(name)
        about = next((one for one in told if (one.engine, one.precision) == (build.engine, build.precision)), None)
        gates = rules.proved(build.gates, about.max_abs_error, about.agreement) if about else build.gates
        if measured.error:
            reason = f"not verified on hardware: {rules.said_on(measured.device, measured.error)}"
            return self._change(name, state=BuildState.BUILT, reason=reason, gates=gates)
        where = f"{measured.device} ({about.gpu})" if about and about.gpu else measured.device
        return self._change(
            name,
            state=BuildState.VERIFIED,
            reason=f"built and run on {where}: its outputs are right; accuracy is not measured on devices",
            max_abs_error=about.max_abs_error if about else None,
            gates=gates,
        )

    def choose(self, name: str) -> Build:
        """Make this the build of its device type and model version, in place of any other."""
        wanted = self.get(name)
        if why_not := rules.objection_to(wanted):
            raise FailedPrecondition(f"no device may get {name}: {why_not}")
        self.sign([wanted])
        self.demand_signed([wanted])
        with self._database.session() as session:
            others = select(Build).where(
                Build.model_version == wanted.model_version, Build.device_type == wanted.device_type
            )
            for build in session.exec(others):
                build.chosen = build.name == name
                build.decision = rules.of_choice(build.decision, build.chosen)
                session.add(build)
        chosen = self.get(name)
        self._tell(chosen)
        return chosen

    def _change(self, name: str, **values: Any) -> Build:
        self.get(name)
        with self._database.session() as session:
            build = session.get_one(Build, name)
            if values.get("state", build.state) is not build.state:
                build.state_at = utc_now()
            for field, value in values.items():
                setattr(build, field, value)
            session.add(build)
        self._tell(build)
        return build

    def _tell(self, build: Build) -> None:
        self._events.publish(f"builds/{build.name}", build)

    def get(self, name: str) -> Build:
        with self._database.session() as session:
            build = session.get(Build, name)
        if build is None:
            raise NotFound(f"there is no {name}; list builds with: milonga build ls")
        return build

    def list(
        self,
        model_version: str = "",
        page_size: int = 0,
        page_token: str = "",
        projects: Collection[str] | None = None,
    ) -> tuple[_Builds, str]:
        """Return builds by name: of a version, or of models of these projects."""
        statement = select(Build)
        if projects is not None:
            # A model has the name of its project.
            ours = [col(Build.model_version).startswith(f"models/{name}/", autoescape=True) for name in projects]
            statement = statement.where(or_(false(), *ours))
        if model_version:
            statement = statement.where(Build.model_version == model_version)
        with self._database.session() as session:
            return page(session, statement, col(Build.name), page_size, page_token)

    def settled_since(self, moment: datetime) -> _Builds:
        """Return the builds that were verified or rejected since then."""
        settled = (BuildState.VERIFIED, BuildState.REJECTED)
        recent = select(Build).where(col(Build.state_at) >= moment, col(Build.state).in_(settled))
        with self._database.session() as session:
            return [*session.exec(recent)]

    def chosen(self, model_version: str) -> dict[str, Build]:
        """Return the chosen build of each device type."""
        statement = select(Build).where(Build.model_version == model_version, col(Build.chosen).is_(True))
        with self._database.session() as session:
            return {build.device_type: build for build in session.exec(statement)}

    def by_bundle(self, digest: str) -> Build | None:
        """Return a build with this bundle, or None. Two device types with equal builds share one bundle."""
        with self._database.session() as session:
            return session.exec(select(Build).where(Build.bundle == digest).order_by(col(Build.name))).first()

    def manifest(self, bundle: str) -> dict[str, Any]:
        """Return the manifest of a bundle. A bundle's digest is its manifest's. Raises NotFound."""
        manifest: dict[str, Any] = json.loads(self._blobs.read(bundle))
        return manifest

    def reference(self, bundle: str) -> Mapping[str, Any] | None:
        """Return the histograms that a bundle has of its validation pictures, {} where there were none; None for no such bundle."""
        try:
            return self.manifest(bundle).get("reference") or {}
        except MilongaError:
            return None

    def manifest_text(self, name: str) -> str:
        """Return the manifest of a build as it lies in the bundle. Raises FailedPrecondition where there is no bundle."""
        build = self.get(name)
        if not build.bundle:
            raise FailedPrecondition(
                f"{name} is {build.state.lower()} and has no manifest: {build.reason or 'not done'}"
            )
        return self._blobs.read(build.bundle).decode()

    def onnx(self, name: str) -> tuple[Build, Path]:
        """Return where the network of a build lies as ONNX, and of which build that is.

        A build of an engine with files of its own kind stands for the same subnet as an ONNX build beside it.
        Raises FailedPrecondition where there is none.
        """
        build = self.get(name)
        alike = [each for each in self.of_type(build.model_version, build.device_type) if each.subnet == build.subnet]
        for each in (build, *sorted(alike, key=lambda one: (one.precision != build.precision, one.name))):
            files = sorted((file.path.count("/"), file.path, file.digest) for file in each.files)
            for _, path, digest in files:
                if path.endswith(".onnx"):
                    return each, self._blobs.path(digest)
        raise FailedPrecondition(
            f"nothing of {name} is kept as ONNX; build its subnet for onnxruntime/fp32 too:"
            f" milonga build start {build.model_version} {build.device_type}/onnxruntime/fp32"
        )

    def network(self, model_version: str, device_type: str = "") -> Path:
        """Return where the network of a device type lies as ONNX; the type may be left out where all have the same.

        Raises NotFound, and InvalidInput saying which types there are.
        """
        subnets = {one: self._ordered(model_version, one) for one in self.orders.types(model_version)}
        if not device_type and len(set(subnets.values())) > 1:
            raise InvalidInput(
                f"{model_version} has networks of its own for {', '.join(subnets)}; say for which: --type"
            )
        wanted = device_type or next(iter(subnets), "")
        path = Path(self.orders.get(model_version, wanted).spec["onnx"])
        if path.exists():
            return path
        for build in self.of_type(model_version, wanted):
            with contextlib.suppress(FailedPrecondition):
                return self.onnx(build.name)[1]
        raise FailedPrecondition(f"{path} is gone, and no build of {model_version} for {wanted} keeps it as ONNX")

    def _ordered(self, model_version: str, device_type: str) -> str:
        return str(self.orders.get(model_version, device_type).spec["manifest"]["subnet"])

    def unpack(self, bundle: str, folder: Path) -> Path:
        """Write the bundle's files into the folder and return it; what is there already, and whole, is kept."""
        manifest = self.manifest(bundle)
        for file in manifest["files"]:
            path = folder / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or digest_of_file(path) != file["digest"]:
                path.write_bytes(self._blobs.read(file["digest"]))
        write_atomically(folder / MANIFEST, self._blobs.read(bundle).decode())
        return folder


def item_of(build: Build) -> MeasurementItem:
    """Return what a device is asked to measure; it gets time to build what only it can."""
    return MeasurementItem(build.subnet, build.engine, build.precision, list(build.files), build.building_seconds)


def project_of(build: Build) -> str:
    """Return whose build it is; a project's models have its name."""
    return build.model_version.removeprefix("models/").partition("/")[0]


def _parsed(target: str) -> Target:
    try:
        return Target.parse(target)
    except UnknownTarget as error:
        raise InvalidInput(str(error)) from error


def _like(known: Build, result: Mapping[str, Any]) -> bool:
    """Return whether a result is what is recorded already: the same bundle, or no bundle for the same reason."""
    if known.bundle or result["bundle"]:
        return bool(known.bundle == result["bundle"])
    return (known.reason, str(known.state)) == (result["reason"], result["state"])
