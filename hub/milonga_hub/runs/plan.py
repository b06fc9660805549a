"""What a run has decided before it starts to work, kept on disk so that a restarted run decides the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from milonga_compiler.engines import ENGINES, BuildSite
from milonga_compiler.files import write_atomically
from pydantic import BaseModel

from milonga_hub.projects.models import Limits, ProjectSpec
from milonga_hub.runs.models import PLAN


class TypePlan(BaseModel):
    """One device type of the run: its limits and the targets that its devices can run."""

    name: str
    limits: Limits
    targets: list[str]
    # As `uname -m` says, for engines that compile to machine code; empty means as the hub's own.
    architecture: str = ""
    # Of the project's targets those that not all of its devices can run.
    left_out: list[str] = []

    @property
    def words(self) -> str:
        """Return its name, and what is left out for it."""
        return f"{self.name} (which cannot run {', '.join(self.left_out)})" if self.left_out else self.name

    @property
    def engine(self) -> str:
        """Return the engine that networks are searched for: the first that the hub builds for, which prepare() sees to."""
        engines = [target.partition("/")[0] for target in self.targets]
        return next(name for name in engines if ENGINES[name].build_site is BuildSite.HUB)

    @property
    def searched(self) -> list[str]:
        """Return the targets that a network is searched for: those of one engine."""
        return [target for target in self.targets if target.partition("/")[0] == self.engine]


class RunPlan(BaseModel):
    spec: ProjectSpec
    dataset_version: str
    classes: list[str]
    types: list[TypePlan]
    # Blob of the checkpoint to train on from; empty trains from nothing.
    base_supernet: str = ""
    base_run: str = ""
    # Number of the data set's version that it learned from; 0 where none is trained on from, or the plan is older than this.
    base_learned: int = 0

    @property
    def searched(self) -> list[str]:
        """Return what any type's network is searched for, in the order of the targets."""
        return self.searched_for(self.types)

    @staticmethod
    def searched_for(types: Sequence[TypePlan]) -> list[str]:
        """Return what the networks of some types are searched for."""
        return list(dict.fromkeys(target for item in types for target in item.searched))

    @property
    def for_whom(self) -> str:
        """Return the types in words."""
        return ", ".join(item.words for item in self.types)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / PLAN, self.model_dump_json(indent=1))

    @classmethod
    def read(cls, folder: Path) -> RunPlan | None:
        """Return the plan of an interrupted run, or None where there is none yet."""
        path = folder / PLAN
        return cls.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
