"""What steps hand to each other: folders with results in JSON, whose paths hold wherever the folder lies."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from milonga_hub.errors import InvalidInput
from milonga_hub.jobs import Progress, run_job
from milonga_hub.runs.exports import ABOUT, ADDED, BASE, CHAMPIONS, MEASUREMENTS
from milonga_hub.runs.models import PLAN
from milonga_hub.runs.plan import RunPlan

_INSIDE = "artifact:"


@dataclass(frozen=True)
class RunFile:
    """The zip file of a run: see runs/exports.py."""

    path: Path

    @cached_property
    def about(self) -> dict[str, Any]:
        found: dict[str, Any] = self._json(ABOUT)
        return found

    @cached_property
    def plan(self) -> RunPlan:
        return RunPlan.model_validate(self._json(PLAN))

    @cached_property
    def measurements(self) -> dict[str, Any]:
        found: dict[str, Any] = self._json(MEASUREMENTS)
        return found

    @cached_property
    def added(self) -> dict[str, int]:
        """Return the version that brought each picture, where that is not the first."""
        found: dict[str, int] = self._json(ADDED)
        return found

    def base(self, folder: Path) -> Path | None:
        """Write the supernet that the run trained on from into the folder; None where it began from nothing."""
        with self._opened() as archive:
            return Path(archive.extract(BASE, folder)) if BASE in archive.namelist() else None

    def champion(self, device_type: str, folder: Path) -> Path | None:
        """Write the bundle that devices of the type ran into the folder and return where; None where there was none."""
        start = f"{CHAMPIONS}/{device_type}/"
        with self._opened() as archive:
            names = [name for name in archive.namelist() if name.startswith(start)]
            for name in names:
                archive.extract(name, folder)
        return folder / start if names else None

    def _json(self, name: str) -> Any:
        with self._opened() as archive:
            try:
                return json.loads(archive.read(name))
            except KeyError as error:
                raise InvalidInput(f"{self.path} has no {name}: it is no run.zip of `milonga export kfp`") from error

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        try:
            archive = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise InvalidInput(f"{self.path} cannot be read as run.zip: {error}") from error
        with archive:
            yield archive


@contextmanager
def made(target: Path) -> Iterator[Path]:
    """Yield a folder to work in, which is copied to an artifact's place at the end.

    That may be a bucket that is mounted, where files cannot be renamed.
    """
    with tempfile.TemporaryDirectory(prefix="milonga-") as scratch:
        folder = Path(scratch).resolve() / "artifact"
        folder.mkdir()
        yield folder
        shutil.copytree(folder, target, dirs_exist_ok=True)


def job(kind: str, order: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Do a job in a process of its own, as a hub does, and print how far it is."""

    def tell(progress: Progress) -> None:
        print(f"{kind} {progress.fraction:.0%} {progress.message}", flush=True)

    return asyncio.run(run_job(kind, order, folder, tell))


def write(folder: Path, name: str, value: Mapping[str, Any]) -> None:
    """Write JSON into an artifact; paths in it are kept as those within the folder."""
    portable = _mapped(value, lambda text: _INSIDE + text[len(str(folder)) + 1 :] if _is_inside(text, folder) else text)
    (folder / name).write_text(json.dumps(portable, indent=1), encoding="utf-8")


def read(folder: Path, name: str) -> dict[str, Any]:
    """Return JSON of an artifact, with its paths where it lies now."""
    value = json.loads((folder / name).read_text(encoding="utf-8"))
    found: dict[str, Any] = _mapped(
        value, lambda text: str(folder / text.removeprefix(_INSIDE)) if text.startswith(_INSIDE) else text
    )
    return found


def _is_inside(text: str, folder: Path) -> bool:
    return text.startswith(f"{folder}/")


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(one, change) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(one, change) for one in value]
    return value
