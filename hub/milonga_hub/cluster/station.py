"""What watches over one job on a node: it is given files, starts the job's process, and tells what came of it.

Ray makes an actor of it; it knows nothing of Ray itself. The process is the one that the hub would start on its own machine.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from milonga_hub.cluster.changes import PART_BYTES, Changes, Part, in_parts
from milonga_hub.cluster.store import Incoming, Store, root
from milonga_hub.cluster.versions import versions
from milonga_hub.jobs import CLAIM, LOCAL, environment

# Folders of a job: what it works in, what it only reads, and what it leaves to later jobs.
WORK, INPUTS, KEPT = "work", "inputs", "kept"
_SPEC, _RESULT, _CLAIM = f"{WORK}/spec.json", f"{WORK}/result.json", f"{WORK}/{CLAIM}"
# Ray tells libraries to use as many threads as the CPUs that it gave; a job is told by its spec, as everywhere.
_RAYS_OWN = ("OMP_NUM_THREADS",)


@dataclass(frozen=True)
class News:
    """What happened since the last news. `code` is the exit code of the process, once all that it left has been told."""

    lines: list[bytes] = field(default_factory=list)
    log: bytes = b""
    parts: list[Part] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    code: int | None = None


class Doing(Protocol):
    """A job that is being done; it is over when its lines are."""

    @property
    def stdout(self) -> IO[bytes] | None: ...

    def wait(self) -> int:
        """Return its exit code, once it has ended."""


class Station:
    def __init__(self, name: str) -> None:
        """`name` is the job's own among all that may run on the node."""
        self._store = Store(root())
        self._folder, self._lock = self._store.open(name)
        self._incoming: dict[str, Incoming] = {}
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._doing: Doing | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._changes = Changes(self._folder, ())
        self._outgoing: Iterator[Part] = iter(())
        self._log_at = 0
        # The process has ended, and what it left is on its way.
        self._ended = self._told_all = False

    def about(self) -> dict[str, Any]:
        """Return where this is and what it has."""
        return {"folder": str(self._folder), "host": socket.gethostname(), "versions": versions()}

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Return those of the files that must travel, because no earlier job had them here."""
        return [one for one in dict.fromkeys(digests) if not self._store.holds(one)]

    def take(self, parts: Sequence[Part]) -> None:
        """Keep the next parts of files; their names are digests."""
        for part in parts:
            incoming = self._incoming.get(part.name)
            if incoming is None:
                incoming = self._incoming[part.name] = self._store.incoming(part.name)
            incoming.take(part.data)
            if part.last:
                self._incoming.pop(part.name).finish()

    def start(self, kind: str, spec: str, files: Mapping[str, str]) -> None:
        """Lay out files (digests by name) and begin the job."""
        (self._folder / WORK).mkdir()
        for name, digest in files.items():
            self._store.place(digest, self._folder / name, changes=not name.startswith(f"{INPUTS}/"))
        (self._folder / _SPEC).write_text(spec, encoding="utf-8")
        self._store.evict()
        self._changes = Changes(self._folder, (WORK, KEPT), hidden=(_SPEC, _RESULT, _CLAIM))
        self._doing = self._begin(kind, self._folder / WORK, self._folder / "log.txt")
        threading.Thread(target=self._listen, args=(self._doing.stdout,), daemon=True).start()

    def _begin(self, kind: str, workdir: Path, log: Path) -> Doing:
        """Start the process that the hub would start on its own machine."""
        known = {name: value for name, value in os.environ.items() if name not in _RAYS_OWN}
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                LOCAL.command(kind, workdir),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment(kind, known),
            )
        return self._process

    def _end(self) -> None:
        """See that the job writes nothing more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _listen(self, said: IO[bytes]) -> None:
        with said:
            for line in said:
                self._lines.put(line)
        self._lines.put(None)

    def news(self, seconds: float) -> News:
        """Return what happened; waits so long for something to happen where nothing has."""
        if parts := self._next_parts():
            return News(log=self._next_log(), parts=parts)
        if self._told_all:
            log = self._next_log()
            return News(log=log, code=None if len(log) == PART_BYTES else self._code())
        lines, gone = self._next_lines(seconds), list[str]()
        if lines or self._ended:
            changed, gone = self._changes.look()
            # Last, because with it the job is done.
            changed += [_RESULT] if self._ended and (self._folder / _RESULT).exists() else []
            self._outgoing = self._each(changed)
            self._told_all = self._ended
        return News(lines, self._next_log(), self._next_parts(), gone)

    def _each(self, names: Sequence[str]) -> Iterator[Part]:
        for name in names:
            yield from in_parts(self._folder, name)

    def _next_parts(self) -> list[Part]:
        found: list[Part] = []
        size = 0
        while size < PART_BYTES and (part := next(self._outgoing, None)) is not None:
            found.append(part)
            size += len(part.data)
        return found

    def _next_lines(self, seconds: float) -> list[bytes]:
        found: list[bytes] = []
        with contextlib.suppress(queue.Empty):
            while not self._ended:
                line = self._lines.get(timeout=0 if found else seconds)
                if line is None:
                    self._ended = True
                else:
                    found.append(line)
        return found

    def _next_log(self) -> bytes:
        path = self._folder / "log.txt"
        if not path.exists():
            return b""
        with path.open("rb") as file:
            file.seek(self._log_at)
            found = file.read(PART_BYTES)
        self._log_at += len(found)
        return found

    def _code(self) -> int:
        assert self._doing is not None
        return self._doing.wait()

    def close(self) -> None:
        """End the job, if it runs, and forget its folder."""
        self._end()
        self._store.close(self._folder)
        os.close(self._lock)


def held_bytes(sizes: Mapping[str, int]) -> int:
    """Return how much of these files, sizes by digest, the node has already."""
    store = Store(root())
    return sum(size for digest, size in sizes.items() if store.holds(digest))
