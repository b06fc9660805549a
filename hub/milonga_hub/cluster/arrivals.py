"""What comes back from a node, into the hub's folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from milonga_hub.cluster.changes import Part
from milonga_hub.jobs import JobError


class Arrivals:
    """Files appear whole, each in one step."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """`folders` has the hub's folder for each folder on the node that files come from."""
        self._folders = folders
        self._open: dict[str, BinaryIO] = {}
        #: How many files have come.
        self.count = 0

    def take(self, part: Part) -> None:
        file = self._open.get(part.name)
        if file is None:
            path = self._path(part.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            file = self._open[part.name] = self._part(path).open("wb")
        file.write(part.data)
        if part.last:
            with self._open.pop(part.name):
                file.flush()
                os.fsync(file.fileno())
            path = self._path(part.name)
            self._part(path).replace(path)
            self.count += 1

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Forget what has not come whole."""
        for name, file in self._open.items():
            file.close()
            self._part(self._path(name)).unlink(missing_ok=True)
        self._open.clear()

    @staticmethod
    def _part(path: Path) -> Path:
        return path.with_name(f".{path.name}.part")

    def _path(self, name: str) -> Path:
        for there, here in self._folders.items():
            if name.startswith(f"{there}/") and ".." not in PurePosixPath(name).parts:
                return here / name[len(there) + 1 :]
        raise JobError(f"the node sent {name!r}, which is of none of the job's folders")
