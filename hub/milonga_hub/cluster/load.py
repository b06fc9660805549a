"""What a job needs on a node: files of the hub's machine, and the names that they get there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milonga_hub import jobs, traces
from milonga_hub.cluster import rules
from milonga_hub.cluster.changes import PART_BYTES, Part, files_under, in_parts
from milonga_hub.cluster.station import INPUTS, KEPT, WORK
from milonga_hub.jobs import JobError

# The hub's own, of a job's folder.
_HUBS = ("spec.json", "result.json", "log.txt", traces.NAME, jobs.CLAIM)


@dataclass(frozen=True)
class Load:
    """Files by their names on the node, and there the name of each path that the spec has."""

    files: dict[str, Path]
    places: dict[str, str]
    #: By name.
    digests: dict[str, str]

    @property
    def sizes(self) -> dict[str, int]:
        """Return sizes in bytes by digest."""
        return {self.digests[name]: path.stat().st_size for name, path in self.files.items()}

    def spec(self, kind: str, spec: Mapping[str, Any], folder: str) -> dict[str, Any]:
        """Return the spec as it is where the job's folder is this one."""
        return rules.sent(kind, spec, {path: f"{folder}/{name}" for path, name in self.places.items()})

    def back(self, folder: str, workdir: Path) -> dict[str, str]:
        """Return the hub's path of each that a result may have."""
        return {f"{folder}/{WORK}": str(workdir), **{f"{folder}/{name}": path for path, name in self.places.items()}}

    def kept(self) -> dict[str, Path]:
        """Return the hub's folder of each that the job leaves to later ones, by name."""
        return {name: Path(path) for path, name in self.places.items() if name.startswith(f"{KEPT}/")}

    def batches(self, digests: Iterable[str]) -> Iterator[list[Part]]:
        """Yield these files in parts, as many at a time as travel well together."""
        paths = {self.digests[name]: path for name, path in self.files.items()}
        batch, size = list[Part](), 0
        for digest in digests:
            for part in in_parts(paths[digest].parent, paths[digest].name):
                batch.append(Part(digest, part.data, part.last))
                size += len(part.data)
                if size >= PART_BYTES:
                    yield batch
                    batch, size = [], 0
        if batch:
            yield batch


def load(kind: str, spec: Mapping[str, Any], workdir: Path) -> Load:
    """Return what the job reads, and what it has left in its folder when it ran before.

    Raises JobError where something is gone.
    """
    files = {f"{WORK}/{name}": path for name, path in _under(workdir) if name not in _HUBS}
    places: dict[str, str] = {}
    for number, path in enumerate(rules.reads(kind, spec)):
        places[path] = _add(files, f"{INPUTS}/{number}", Path(path))
    for number, path in enumerate(rules.keeps(kind, spec)):
        places[path] = f"{KEPT}/{number}"
        files |= {f"{KEPT}/{number}/{name}": file for name, file in _under(Path(path))}
    return Load(files, places, {name: _digest(path) for name, path in files.items()})


def _add(files: dict[str, Path], folder: str, path: Path) -> str:
    """Add what lies at a path and return its name on the node."""
    if path.is_dir():
        files |= {f"{folder}/{path.name}/{name}": file for name, file in _under(path)}
        return f"{folder}/{path.name}"
    if not path.exists():
        raise JobError(f"{path} is gone, which the job reads; start a run: milonga runs start")
    if path.suffix == ".yaml":  # It names what lies beside it.
        return f"{_add(files, folder, path.parent)}/{path.name}"
    files[f"{folder}/{path.name}"] = path
    return f"{folder}/{path.name}"


def _under(folder: Path) -> Iterator[tuple[str, Path]]:
    return ((path.relative_to(folder).as_posix(), path) for path in files_under(folder))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
