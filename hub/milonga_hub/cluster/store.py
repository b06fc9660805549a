"""What a node keeps of jobs: files by their digests, so that a data set travels once, and a folder for each job that runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

FOLDER = "MILONGA_RAY_FOLDER"
LIMIT = "MILONGA_RAY_CACHE_BYTES"
# A few hundred data sets of demos, or one of pictures that a machine trains on in a day.
_DEFAULT_BYTES = 20 << 30


def root() -> Path:
    """Return the folder on this node. Raises PermissionError where another user made it."""
    folder = Path(os.environ.get(FOLDER) or Path(tempfile.gettempdir()) / f"milonga-ray-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; name another folder by {FOLDER} on the node")
    return folder


class Store:
    """Several processes may use one folder."""

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self._files, self._jobs = folder / "files", folder / "jobs"
        self._max_bytes = int(os.environ.get(LIMIT) or _DEFAULT_BYTES) if max_bytes is None else max_bytes
        for one in (self._files, self._jobs):
            one.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        return self._files / digest

    def holds(self, digest: str) -> bool:
        return self.path(digest).exists()

    def place(self, digest: str, target: Path, changes: bool) -> None:
        """Give the file this name too, or a copy of it where the job may change it."""
        kept = self.path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if changes:
                shutil.copyfile(kept, target)
            else:
                os.link(kept, target)
        except OSError:
            shutil.copyfile(kept, target)
        os.utime(kept)

    def incoming(self, digest: str) -> Incoming:
        return Incoming(self, digest)

    def evict(self) -> None:
        """Remove files that were used longest ago, until the rest is within the limit. Jobs keep what they were given."""
        known = sorted(((one.stat(), one) for one in self._files.iterdir()), key=lambda each: each[0].st_mtime_ns)
        total = sum(stat.st_size for stat, _ in known)
        for stat, path in known:
            if total <= self._max_bytes:
                return
            path.unlink(missing_ok=True)
            total -= stat.st_size

    def open(self, name: str) -> tuple[Path, int]:
        """Return a new folder for a job, and what holds it for this process; folders of processes that died are removed."""
        lock = self._jobs / f"{name}.lock"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for folder in self._jobs.iterdir():
            if folder.is_dir() and folder.name != name:
                self._sweep(folder)
        folder = self._jobs / name
        folder.mkdir()
        return folder, descriptor

    def _sweep(self, folder: Path) -> None:
        lock = folder.with_name(f"{folder.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # Its job runs.
        else:
            self.close(folder)
        finally:
            os.close(descriptor)

    @staticmethod
    def close(folder: Path) -> None:
        """Remove a job's folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)


class Incoming:
    """A file that arrives in parts; it is there once it is whole, and what its digest says."""

    def __init__(self, store: Store, digest: str) -> None:
        self._store, self._digest = store, digest
        self._sum = hashlib.sha256()
        self._file = tempfile.NamedTemporaryFile(dir=store.path(digest).parent, prefix=".part-", delete=False)  # noqa: SIM115

    def take(self, part: bytes) -> None:
        self._sum.update(part)
        self._file.write(part)

    def finish(self) -> None:
        """Raises OSError where something else arrived than was sent."""
        self._file.close()
        path = Path(self._file.name)
        if self._sum.hexdigest() != self._digest:
            path.unlink()
            raise OSError(
                f"a file arrived as {self._sum.hexdigest()} and was sent as {self._digest}; is memory or disk broken?"
            )
        path.replace(self._store.path(self._digest))
