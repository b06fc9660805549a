"""What a backup is: a tar file that says first what it is and last what each of its files must be."""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath

from pydantic import BaseModel

FORMAT = 1
ABOUT, DIGESTS = "milonga-backup.json", "milonga-digests.json"
DATABASE = "milonga.db"
# What hubs make anew, or what belongs to a hub that runs.
LEFT_OUT = frozenset({"deltas", "uploads", "uploads-http", "hub.json", "hub.lock", "local.key", ".writable"})
RUNS = "runs"


class About(BaseModel):
    """The first file of a backup."""

    format: int = FORMAT
    milonga: str
    made_at: datetime
    # Of the authority that all devices of this hub believe.
    fingerprint: str
    with_runs: bool


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
