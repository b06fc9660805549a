"""Keep the newest of what the agent logs on disk, so that it can be read from afar, also after a crash."""

from __future__ import annotations

import logging
from pathlib import Path

# Of each of two files: the one that is written, and the one before.
FILE_BYTES = 256 * 1024
_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class Journal(logging.Handler):
    """A log of bounded size. A disk that is full costs lines, and nothing else."""

    def __init__(self, folder: Path, boot_id: str, file_bytes: int = FILE_BYTES) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(_FORMAT))
        self._path, self._former = paths(folder)
        self._boot_id = boot_id
        self._file_bytes = file_bytes
        # Positions count from the first byte that was there when this agent started.
        self._end = self._began = len(_content(self._former)) + len(_content(self._path))

    def emit(self, record: logging.LogRecord) -> None:
        line = (self.format(record) + "\n").encode("utf-8", "replace")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size + len(line) > self._file_bytes:
                self._path.replace(self._former)
            with self._path.open("ab") as file:
                file.write(line)
        except OSError:
            return  # It is on the agent's standard error, too.
        self._end += len(line)

    def read(self, cursor: str, max_bytes: int) -> tuple[bytes, str]:
        """Return the newest lines, at most so many bytes, that were logged since the cursor, and the next cursor."""
        content = _content(self._former) + _content(self._path)
        first = self._end - len(content)
        wanted = max(self._position(cursor, first), first, self._end - max_bytes)
        newest = content[wanted - first :]
        if wanted > first and content[wanted - first - 1 : wanted - first] != b"\n":
            # Not from the middle of a line.
            newest = newest.partition(b"\n")[2]
        return newest, f"{self._boot_id}:{self._end}"

    def _position(self, cursor: str, first: int) -> int:
        boot_id, _, position = cursor.rpartition(":")
        if not cursor:
            return first
        if boot_id != self._boot_id or not position.isdigit():
            # The agent has started anew since.
            return self._began
        return min(int(position), self._end)


def paths(folder: Path) -> tuple[Path, Path]:
    """Return where an agent logs, and where what it logged before is."""
    return folder / "log" / "agent.log", folder / "log" / "agent.log.1"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
