"""Builds: what was made of a model version, and which of it devices get."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sqlmodel import col, select

from milonga_hub.blobs import BlobStore, digest_of_file
from milonga_hub.builds.models import Build, BuildState
from milonga_hub.db import Database
from milonga_hub.devices.models import File
from milonga_hub.errors import FailedPrecondition, NotFound
from milonga_hub.events import EventBus
from milonga_hub.jobs import write_atomically
from milonga_hub.paging import page
from milonga_hub.tasks import Task

_Builds = list[Build]

MANIFEST = "manifest.json"


class Signer(Protocol):
    """What builds need of SigningService."""

    def sign(self, project: str, bundles: Mapping[str, int]) -> None: ...
    def is_signed(self, project: str, bundle: str) -> bool: ...


class BuildService:
    def __init__(self, database: Database, blobs: BlobStore, events: EventBus, signer: Signer) -> None:
        self._database = database
        self._blobs = blobs
        self._events = events
        self._signer = signer

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
        """Have those builds signed that devices may have; for those of others the signatures are waited for."""
        bundles: dict[str, dict[str, int]] = defaultdict(dict)
        for build in builds:
            if build.state is BuildState.VERIFIED:
                size_bytes = next(file.size_bytes for file in build.files if file.path == MANIFEST)
                bundles[self._project(build)][build.bundle] = size_bytes
        for project, named in bundles.items():
            self._signer.sign(project, named)

    def sign_all(self) -> None:
        """Have all builds signed that are not yet: those of a hub from before it signed any."""
        with self._database.session() as session:
            verified = session.exec(select(Build).where(Build.state == BuildState.VERIFIED)).all()
        self.sign(build for build in verified if self._blobs.exists(build.bundle))

    def demand_signed(self, builds: Iterable[Build]) -> None:
        """Raise FailedPrecondition while a build lacks a signature without which no device runs it."""
        waiting = [build.name for build in builds if not self._signer.is_signed(self._project(build), build.bundle)]
        if waiting:
            raise FailedPrecondition(
                f"{', '.join(waiting)}: not signed yet by keys that are not on this hub; see milonga keys status, sign what waits,"
                " then: milonga runs resume RUN"
            )

    def _project(self, build: Build) -> str:
        return str(self.manifest(build.bundle)["project"])

    def _record(
        self, model_version: str, device_type: str, result: Mapping[str, Any], predicted_ms: float | None, task: Task
    ) -> Build:
        name = f"{model_version}/builds/{device_type}:{result['engine']}:{result['precision']}"
        with self._database.session() as session:
            known = session.get(Build, name)
        if known is not None and known.bundle == result["bundle"]:
            return known
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
        )
        with self._database.session() as session:
            session.merge(build)
        self._events.publish(f"builds/{name}", build)
        return build

    def _subnet(self, result: Mapping[str, Any]) -> str:
        return str(self.manifest(result["bundle"])["subnet"]) if result["bundle"] else ""

    def set_measured(self, name: str, measured_ms: float) -> Build:
        """Keep the median that a device of the type measured, in milliseconds."""
        return self._change(name, measured_ms=measured_ms)

    def choose(self, name: str) -> Build:
        """Make this the build of its device type and model version, in place of any other."""
        wanted = self.get(name)
        if wanted.state is not BuildState.VERIFIED:
            raise FailedPrecondition(f"{name} is {wanted.state}, so no device may get it: {wanted.reason or 'not run'}")
        self.sign([wanted])
        self.demand_signed([wanted])
        with self._database.session() as session:
            others = select(Build).where(
                Build.model_version == wanted.model_version, Build.device_type == wanted.device_type
            )
            for build in session.exec(others):
                build.chosen = build.name == name
                session.add(build)
        chosen = self.get(name)
        self._events.publish(f"builds/{name}", chosen)
        return chosen

    def _change(self, name: str, **values: Any) -> Build:
        self.get(name)
        with self._database.session() as session:
            build = session.get_one(Build, name)
            for field, value in values.items():
                setattr(build, field, value)
            session.add(build)
        self._events.publish(f"builds/{name}", build)
        return build

    def get(self, name: str) -> Build:
        with self._database.session() as session:
            build = session.get(Build, name)
        if build is None:
            raise NotFound(f"there is no {name}; list builds with: milonga builds list")
        return build

    def list(self, model_version: str = "", page_size: int = 0, page_token: str = "") -> tuple[_Builds, str]:
        statement = select(Build)
        if model_version:
            statement = statement.where(Build.model_version == model_version)
        with self._database.session() as session:
            return page(session, statement, col(Build.name), page_size, page_token)

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
