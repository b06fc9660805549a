"""Write files so that a power cut leaves the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from milonga_agent.errors import DiskFull

_CHUNK_BYTES = 1 << 18


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the file in one step. Raises DiskFull, and then leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with disk_errors(path):
        descriptor = os.open(str(temporary), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink()
            raise
        temporary.replace(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder last."""
    descriptor = os.open(str(folder), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" into DiskFull, naming the path."""
    try:
        yield
    except OSError as error:
        # EFBIG: a limit on the size of files, which some systems set in place of a quota.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFull(f"the disk is full: cannot write {path}; free some space, the agent tries again") from error
        raise


def digest_of_file(path: Path) -> str:
    """Return "sha256:" and the hexadecimal digest of the file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            if not chunk:
                return "sha256:" + digest.hexdigest()
            digest.update(chunk)
