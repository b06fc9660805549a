"""Boards that are known by name: how an inventory is told to be one, and what suits it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

from milonga_compiler.engines import ENGINES, Precision
from pydantic import BaseModel, field_validator, model_validator
from pydantic import Field as Bound

from milonga_hub.devices.models import Verification
from milonga_hub.documents import Kind, Spec
from milonga_hub.errors import InvalidInput

_FOLDER = Path(__file__).parent / "known_types"


class Match(Spec):
    """How an inventory is recognised; an empty list asks nothing.

    `boards` are words of the device tree's model, `compatible` entries of its list of that name (which ends with the
    system on chip), `accelerator` is the model of a device on USB or PCI Express. Where several entries match, the most
    specific one counts.
    """

    boards: list[str] = Bound(default=[])
    compatible: list[str] = Bound(default=[])
    architectures: list[str] = Bound(default=[])
    accelerator: str = ""

    @model_validator(mode="after")
    def _asks_something(self) -> Match:
        if not (self.boards or self.compatible or self.architectures):
            raise ValueError("name boards, compatible or architectures; otherwise every device would match")
        return self


class PreferredEngine(Spec):
    """An engine, with the precisions to build in the order in which they are searched for."""

    engine: str
    # Not strict: YAML writes them as text.
    precisions: list[Annotated[Precision, Bound(strict=False)]] = Bound(min_length=1)

    @field_validator("engine")
    @classmethod
    def _known(cls, engine: str) -> str:
        if engine not in ENGINES:
            raise ValueError(f"there is no engine {engine!r}; there are: {', '.join(ENGINES)}")
        return engine

    @model_validator(mode="after")
    def _offered(self) -> PreferredEngine:
        if missing := [str(one) for one in self.precisions if one not in ENGINES[self.engine].precisions]:
            offered = ", ".join(map(str, ENGINES[self.engine].precisions))
            raise ValueError(f"{self.engine} is not built in {', '.join(missing)}; it is in {offered}")
        return self


class KnownTypeSpec(Spec):
    """What a board is and what suits it. `memory_mib` lists the sizes that it is sold with."""

    title: str
    match: Match
    architecture: str
    memory_mib: list[Annotated[int, Bound(gt=0)]] = Bound(default=[])
    engines: list[PreferredEngine] = Bound(min_length=1)
    # Not strict: YAML writes it as text.
    verification: Verification = Bound(strict=False)
    notes: str = ""

    @property
    def targets(self) -> list[str]:
        """Return what is built, the preferred first."""
        return [f"{one.engine}/{precision}" for one in self.engines for precision in one.precisions]


class KnownType(BaseModel):
    """One entry of fleet_configs/device_types."""

    name: str
    spec: KnownTypeSpec


FILE = Kind("DeviceType", KnownTypeSpec, "fleet_configs/device_types")


def load(folder: Path) -> tuple[KnownType, ...]:
    """Return the entries of a folder by name. Raises InvalidInput naming file and line of everything wrong with one."""
    entries = []
    for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem):
        name, spec = FILE.load(path)
        if name != path.stem:
            raise InvalidInput(f"{path}: the entry is called {name!r}; call its file {name}.yaml")
        entries.append(KnownType(name=name, spec=spec))
    return tuple(entries)


@cache
def shipped() -> tuple[KnownType, ...]:
    """Return the entries that come with the hub."""
    return load(_FOLDER)
