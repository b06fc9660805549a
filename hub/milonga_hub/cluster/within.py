"""A job that a thread of this process does, where the process is not ours to start: a worker of Ray Train."""

from __future__ import annotations

import os
import threading
import traceback
from pathlib import Path
from typing import IO

from milonga_hub.cluster.station import Doing, Station
from milonga_hub.jobs import JobContext, perform

# As for a process that ends by an error which nobody caught.
_FAILED = 1


class Within:
    """What a process of its own would be to a station: its lines, its log, and an exit code."""

    def __init__(self, kind: str, workdir: Path, log: Path) -> None:
        reading, writing = os.pipe()
        self.stdout: IO[bytes] | None = os.fdopen(reading, "rb")
        self._code = 0
        # A daemon, since a thread cannot be killed: who ends the process ends it.
        self._thread = threading.Thread(target=self._do, args=(kind, workdir, log, writing), daemon=True)
        self._thread.start()

    def _do(self, kind: str, workdir: Path, log: Path, writing: int) -> None:
        with os.fdopen(writing, "w") as out:
            try:
                perform(kind, workdir, JobContext(out))
            except Exception:
                self._code = _FAILED
                with log.open("a", encoding="utf-8") as file:
                    traceback.print_exc(file=file)

    def wait(self) -> int:
        self._thread.join()
        return self._code


class StationWithin(Station):
    """Does its job by its own process."""

    def _begin(self, kind: str, workdir: Path, log: Path) -> Doing:
        return Within(kind, workdir, log)

    def _end(self) -> None:
        """Leave the thread to the end of its process, which follows."""
