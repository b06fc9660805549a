"""The model registry: a run makes one version, which never changes once the run has built it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

from sqlmodel import col, select

from milonga_hub.blobs import Blobs
from milonga_hub.db import Database
from milonga_hub.errors import NotFound
from milonga_hub.models.models import ImportedModel, Model, ModelVersion
from milonga_hub.paging import of_projects, page
from milonga_hub.tasks import Task

T = TypeVar("T")


class ModelService:
    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs
        self._numbering = database.turn("models")

    def create_version(
        self,
        model: str,
        run: str,
        dataset_version: str,
        supernet: str,
        subnets: Mapping[str, str],
        accuracies: Mapping[str, float],
        task: Task = Task.CLASSIFICATION,
        checkpoints: Mapping[str, str] | None = None,
        imported: ImportedModel | None = None,
    ) -> ModelVersion:
        """Register what a run made and return it; the same run again gets the same version."""
        with self._numbering, self._database.session() as session:
            known = session.exec(
                select(ModelVersion).where(ModelVersion.run == run, ModelVersion.model == model)
            ).first()
            if known is not None:
                return known
            owner = session.get(Model, model) or Model(name=model)
            owner.latest_version += 1
            version = ModelVersion(
                name=f"models/{model}/versions/{owner.latest_version}",
                model=model,
                number=owner.latest_version,
                run=run,
                dataset_version=dataset_version,
                supernet=supernet,
                subnets=dict(subnets),
                accuracies=dict(accuracies),
                task=task,
                checkpoints=dict(checkpoints or {}),
                imported=imported,
            )
            session.add(owner)
            session.add(version)
        return version

    def change_subnet(
        self, name: str, device_type: str, subnet: str, accuracy: float | None, checkpoint: str
    ) -> ModelVersion:
        """Give a device type another subnet than the version was made with; `checkpoint` is a blob's digest, or "" for none."""
        with self._database.session() as session:
            version = session.get(ModelVersion, name)
            if version is None:
                raise NotFound(f"there is no {name}; list them with: milonga models versions MODEL")
            version.subnets = {**version.subnets, device_type: subnet}
            version.accuracies = _with(version.accuracies, device_type, accuracy)
            version.checkpoints = _with(version.checkpoints, device_type, checkpoint or None)
            session.add(version)
        return version

    def get_version(self, name: str) -> ModelVersion:
        with self._database.session() as session:
            version = session.get(ModelVersion, name)
        if version is None:
            raise NotFound(f"there is no {name}; list them with: milonga models versions MODEL")
        return version

    def of_run(self, model: str, run: str) -> ModelVersion | None:
        """Return the version that a run made, or None while there is none."""
        with self._database.session() as session:
            made = select(ModelVersion).where(ModelVersion.run == run, ModelVersion.model == model)
            return session.exec(made).first()

    def checkpoint(self, name: str, device_type: str = "") -> Path:
        """Return the file of a device type's subnet as its family's own tools load it; the type may be left out if it
        is the only one. Raises NotFound saying which there are.
        """
        known = self.get_version(name).checkpoints
        if not known:
            raise NotFound(f"{name} has no checkpoint to download; only detectors (ultralytics) have one")
        wanted = device_type or (next(iter(known)) if len(known) == 1 else "")
        if wanted not in known:
            raise NotFound(f"{name} has checkpoints for {', '.join(sorted(known))}; say which one, not {device_type!r}")
        return self._blobs.path(known[wanted])

    def list(
        self, page_size: int = 0, page_token: str = "", projects: Collection[str] | None = None
    ) -> tuple[list[Model], str]:
        """Return models by name. A model has the name of its project."""
        statement = of_projects(select(Model), col(Model.name), projects)
        with self._database.session() as session:
            return page(session, statement, col(Model.name), page_size, page_token)

    def versions(self, model: str, page_size: int = 0, page_token: str = "") -> tuple[_Versions, str]:
        """Return the versions of a model, the newest first."""
        statement = select(ModelVersion).where(ModelVersion.model == model)
        with self._database.session() as session:
            return page(session, statement, col(ModelVersion.number), page_size, page_token, newest_first=True)


# ModelService.list hides the builtin inside the class.
_Versions = list[ModelVersion]


def _with(known: Mapping[str, T], key: str, value: T | None) -> dict[str, T]:
    """Return what is known with the value under the key, or without the key where there is none."""
    rest = {name: one for name, one in known.items() if name != key}
    return rest if value is None else {**rest, key: value}
