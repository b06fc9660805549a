"""What a backup is: a tar file that says first what it is and last what each of its files must be."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path, PurePosixPath

from pydantic import BaseModel

from milonga_hub.errors import FailedPrecondition, OutOfRoom

# Bytes that are done, and all there are.
OnProgress = Callable[[int, int], None]

FORMAT = 1
ABOUT, DIGESTS = "milonga-backup.json", "milonga-digests.json"
DATABASE = "milonga.db"
# What hubs make anew, or what belongs to a hub that runs.
LEFT_OUT = frozenset(
    {
        "blob-cache",
        "deltas",
        "imports",
        "tuning",
        "uploads",
        "uploads-http",
        "uploads-models",
        "begin.lock",
        "hub.json",
        "hub.lock",
        "hubs",
        "local.key",
        "own.lock",
        ".writable",
    }
)
RUNS = "runs"


class About(BaseModel):
    """The first file of a backup."""

    format: int = FORMAT
    milonga: str
    made_at: datetime
    # Of the authority that all devices of this hub believe.
    fingerprint: str
    with_runs: bool
    # Where blobs are that are not in it; "" where all are.
    blobs_elsewhere: str = ""


class Digests(BaseModel):
    """The last file of a backup: SHA-256 by path, so that one which was cut off or damaged is never taken for whole."""

    sha256: dict[str, str]


def is_kept(path: PurePosixPath, with_runs: bool) -> bool:
    """Return whether a file of the data folder, named relative to it, belongs into a backup."""
    first = path.parts[0]
    if first in LEFT_OUT or first.startswith(f"{DATABASE}") or (first == RUNS and not with_runs):
        return False
    # Half-written files of a hub that runs.
    return not path.name.startswith(".part-")


def is_safe(name: str) -> bool:
    """Return whether a file may be written under this name, inside the folder that is restored."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


@contextmanager
def disk_errors(path: Path, otherwise: str) -> Iterator[None]:
    """Name what cannot be written; on a full disk say to make room or what to do `otherwise`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutOfRoom(f"the disk of {path} is full; make room, or {otherwise}") from error
        raise FailedPrecondition(f"cannot write {path}: {error.strerror or error}") from error
