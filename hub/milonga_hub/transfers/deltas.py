"""Deltas that were made, and their making: one at a time, in processes of their own, kept within a limit."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from milonga.deltas import FORMAT
from milonga.waiting import within
from milonga_compiler.files import write_atomically

from milonga_hub.blobs import Blobs
from milonga_hub.errors import MilongaError
from milonga_hub.jobs import run_job
from milonga_hub.transfers import rules

_log = logging.getLogger(__name__)

# More that wait than this are not made: their devices take the whole file, and the hub keeps its processor.
_MOST_WAITING = 32


@dataclass(frozen=True)
class Delta:
    """A delta from the blob `base` to the blob `target`. One that would not pay has no digest, and no file."""

    target: str
    base: str = ""
    digest: str = ""
    size_bytes: int = 0


class Deltas:
    """The folder of deltas: KEY.json says what came of the try, and KEY.delta is what devices fetch."""

    def __init__(self, blobs: Blobs, folder: Path, max_bytes: int) -> None:
        self._blobs = blobs
        self._folder = folder
        self._max_bytes = max_bytes
        self._turn = asyncio.Semaphore(1)
        self._making: dict[str, asyncio.Task[Delta]] = {}
        # How often somebody has waited in vain, by key.
        self._too_late_for: Counter[str] = Counter()
        # What there is, by key, the one that was used last at the end.
        self._known: dict[str, Delta] = {}
        self._keys: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "jobs", ignore_errors=True)
        for path in sorted(folder.glob("*.json"), key=lambda each: each.stat().st_mtime):
            self._read(path)

    def find(self, digest: str) -> tuple[Delta, Path] | None:
        """Return the delta with this digest, and its file."""
        key = self._keys.get(digest)
        return None if key is None else (self._known[key], self._place(key))

    async def wanted(self, target: str, bases: Sequence[str], seconds: float) -> Delta | None:
        """Return the delta, made now if it is not there; None where that takes longer, fails, or would not pay."""
        key = _key(target, bases)
        known = self._known.get(key)
        if known is not None:
            self._known[key] = self._known.pop(key)
            return known if known.digest else None
        task = self._making.get(key)
        if task is None:
            if len(self._making) >= _MOST_WAITING:
                return None
            task = self._making[key] = asyncio.create_task(self._made(key, target, bases))
            task.add_done_callback(lambda _: self._making.pop(key, None))
        try:
            made = await within(asyncio.shield(task), seconds)
        except TimeoutError:
            # It goes on, for those who ask later.
            self._too_late_for[key] += 1
            return None
        return made if made.digest else None

    async def _made(self, key: str, target: str, bases: Sequence[str]) -> Delta:
        workdir = self._folder / "jobs" / key
        async with self._turn:
            try:
                delta = await self._try(workdir, target, bases)
                if delta.digest:
                    (workdir / "delta").replace(self._place(key))
                write_atomically(self._folder / f"{key}.json", json.dumps(asdict(delta)))
            except (MilongaError, OSError) as error:
                # Not kept: a disk that was full may be empty after a restart.
                _log.warning("no delta to %s: %s", target, error)
                delta = Delta(target)
            finally:
                shutil.rmtree(workdir, ignore_errors=True)
        if too_late_for := self._too_late_for.pop(key, 0):
            _log.info("a delta to %s took so long that %d took the whole file meanwhile", target, too_late_for)
        self._know(key, delta)
        self._evict()
        return delta

    async def _try(self, workdir: Path, target: str, bases: Sequence[str]) -> Delta:
        # Names of the job's own: whatever happens to the blobs meanwhile, it reads them to the end.
        workdir.mkdir(parents=True, exist_ok=True)
        paths = {digest: workdir / f"blob-{number}" for number, digest in enumerate([target, *bases])}
        for digest, path in paths.items():
            await asyncio.to_thread(self._blobs.copy_to, digest, path)
        spec = {
            "target": str(paths[target].absolute()),
            "bases": {base: str(paths[base].absolute()) for base in bases},
        }
        result = await run_job("delta", spec, workdir, lambda progress: None)
        size_bytes, whole_bytes = result["size_bytes"], paths[target].stat().st_size
        if not rules.pays(size_bytes, whole_bytes):
            _log.info("a delta to %s would have %d of %d bytes: it is sent whole", target, size_bytes, whole_bytes)
            return Delta(target)
        return Delta(target, result["base"], result["digest"], size_bytes)

    def _know(self, key: str, delta: Delta) -> None:
        self._known[key] = delta
        if delta.digest:
            self._keys[delta.digest] = key

    def _read(self, path: Path) -> None:
        try:
            delta = Delta(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            path.unlink(missing_ok=True)
            return
        if not delta.digest or self._place(path.stem).exists():
            self._know(path.stem, delta)

    def _evict(self) -> None:
        """Remove what was used longest ago, until what is left is within the limit."""
        total = sum(delta.size_bytes for delta in self._known.values())
        for key, delta in list(self._known.items()):
            if total <= self._max_bytes:
                return
            if delta.digest:
                total -= delta.size_bytes
                del self._known[key]
                self._keys.pop(delta.digest, None)
                # Whoever fetches it now goes on reading the open file.
                (self._folder / f"{key}.json").unlink(missing_ok=True)
                self._place(key).unlink(missing_ok=True)

    def _place(self, key: str) -> Path:
        return self._folder / f"{key}.delta"


def _key(target: str, bases: Sequence[str]) -> str:
    return hashlib.sha256(" ".join([str(FORMAT), target, *bases]).encode()).hexdigest()[:32]
