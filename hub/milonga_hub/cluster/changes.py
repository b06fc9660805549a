"""What a job has written in its folder since it was last looked at, in parts that travel."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Large enough that the number of calls does not count, small enough for any object store.
PART_BYTES = 8 << 20


@dataclass(frozen=True)
class Part:
    """A piece of a file; `name` is its place in the job's folder."""

    name: str
    data: bytes
    last: bool


class Changes:
    """Files under some folders of a root that are new or other than before; those that begin with "." are never told."""

    def __init__(self, root: Path, folders: Sequence[str], hidden: Sequence[str] = ()) -> None:
        """`hidden` are files that concern nobody else."""
        self._root, self._folders, self._hidden = root, folders, frozenset(hidden)
        self._known = self._seen()

    def look(self) -> tuple[list[str], list[str]]:
        """Return the names of files that changed, and of those that are gone, since the last time."""
        now = self._seen()
        changed = sorted(name for name, mark in now.items() if self._known.get(name) != mark)
        gone = sorted(self._known.keys() - now.keys())
        self._known = now
        return changed, gone

    def _seen(self) -> dict[str, tuple[int, int, int]]:
        found: dict[str, tuple[int, int, int]] = {}
        for folder in self._folders:
            for path in files_under(self._root / folder):
                name = path.relative_to(self._root).as_posix()
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue  # The job removed it just now.
                if name not in self._hidden:
                    found[name] = stat.st_mtime_ns, stat.st_size, stat.st_ino
        return found


def in_parts(root: Path, name: str) -> Iterator[Part]:
    """Yield a file in parts, as it is when the first is read; nothing where it is gone by then."""
    try:
        file = (root / name).open("rb")
    except FileNotFoundError:
        return
    with file:
        data = file.read(PART_BYTES)
        while True:
            following = file.read(PART_BYTES)
            yield Part(name, data, last=not following)
            if not following:
                return
            data = following


def files_under(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder but those that begin with "." or lie in such folders: they are not finished."""
    for place, folders, names in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        yield from (Path(place) / one for one in names if not one.startswith("."))
