"""Pictures on disk that wait for the hub: each one file, whole or not there, in a folder that keeps to its limits."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import NamedTuple

from milonga.v1 import agent_pb2

from milonga_agent.errors import DiskFull
from milonga_agent.files import write_atomically

_log = logging.getLogger(__name__)

MAX_PICTURES = 500
MAX_BYTES = 64 << 20
_ENDING = ".sample"
_LEDGER = "ledger.json"
_DAY_SECONDS = 86_400


class Ledger(NamedTuple):
    """What the folder took on one day, by the device's clock, and what it dropped in all its time."""

    day: int = 0
    pictures: int = 0
    bytes: int = 0
    dropped: int = 0


class SampleFolder:
    """Bounded: the oldest picture is dropped for a new one, and counted. Files are named by time, so that they sort.

    A worker puts and the daemon takes; a file that is gone by the time that it is read was done with. What was made
    unrecognisable in another way than `redact` says now, or not at all, is never read: it is deleted.
    """

    def __init__(
        self, folder: Path, redact: str = "", max_pictures: int = MAX_PICTURES, max_bytes: int = MAX_BYTES
    ) -> None:
        self.folder = folder
        self._redact = redact
        self._max_pictures = max_pictures
        self._max_bytes = max_bytes

    def put(self, sample: agent_pb2.KeptSample, now: float) -> None:
        """Keep a picture, in place of the oldest where there is no room. Raises DiskFull, and then keeps nothing of it."""
        sample.redact = self._redact
        data = sample.SerializeToString()
        self._make_room(len(data))
        hexadecimal = sample.header.digest.partition(":")[2]
        write_atomically(self.folder / f"{int(now * 1e3):016}-{hexadecimal}{_ENDING}", data, 0o600)
        ledger = self._today(now)
        size_bytes = ledger.bytes + sample.header.size_bytes
        self._keep(ledger._replace(pictures=ledger.pictures + 1, bytes=size_bytes))

    def may_take(self, pictures_per_day: int, bytes_per_day: int, size_bytes: int, now: float) -> bool:
        """Return whether one more picture is within the limits of its day."""
        ledger = self._today(now)
        return ledger.pictures < pictures_per_day and ledger.bytes + size_bytes <= bytes_per_day

    def count_dropped(self, count: int = 1) -> None:
        """Count pictures that were chosen and could not be kept."""
        ledger = self.ledger()
        self._keep(ledger._replace(dropped=ledger.dropped + count))

    def digests(self) -> dict[str, Path]:
        """Return the digests of what waits and where it lies, the oldest first."""
        return {f"sha256:{path.stem.partition('-')[2]}": path for path in self._paths()}

    def read(self, path: Path) -> agent_pb2.KeptSample | None:
        """Return what waits there; None where it was dropped meanwhile, or may not be read, which removes it."""
        sample = agent_pb2.KeptSample()
        try:
            sample.ParseFromString(path.read_bytes())
        except FileNotFoundError:
            return None
        except Exception as error:  # protobuf raises its own DecodeError, from several places.
            _log.error("%s is damaged and dropped: %s", path, error)
            path.unlink(missing_ok=True)
            return None
        if sample.redact != self._redact:
            _log.info("%s is deleted: it was kept under another --redact", path)
            path.unlink(missing_ok=True)
            return None
        return sample

    def clear(self, but_of: str = "") -> None:
        """Delete all pictures but those of one project, and what was half written when the power went."""
        for left in self.folder.glob(f".*{_ENDING}.tmp"):
            left.unlink(missing_ok=True)
        for path in self._paths():
            sample = self.read(path) if but_of else None
            if sample is None or sample.header.project != but_of:
                path.unlink(missing_ok=True)

    def ledger(self) -> Ledger:
        try:
            known = json.loads((self.folder / _LEDGER).read_text(encoding="utf-8"))
            return Ledger(*(int(known[name]) for name in Ledger._fields))
        except FileNotFoundError:
            return Ledger()
        except (ValueError, KeyError, TypeError) as error:
            _log.error("%s is damaged: %s; counting starts anew", self.folder / _LEDGER, error)
            return Ledger()

    def _today(self, now: float) -> Ledger:
        ledger, day = self.ledger(), int(now // _DAY_SECONDS)
        return ledger if ledger.day == day else Ledger(day=day, dropped=ledger.dropped)

    def _keep(self, ledger: Ledger) -> None:
        try:
            write_atomically(self.folder / _LEDGER, json.dumps(ledger._asdict()).encode("utf-8"), 0o600)
        except DiskFull as error:
            _log.error("samples: %s", error)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{_ENDING}")) if self.folder.is_dir() else []

    def _make_room(self, size_bytes: int) -> None:
        sizes = {}
        for path in self._paths():
            try:
                sizes[path] = path.stat().st_size
            except FileNotFoundError:
                continue
        dropped = 0
        for path in list(sizes):
            if len(sizes) < self._max_pictures and sum(sizes.values()) + size_bytes <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            del sizes[path]
            dropped += 1
        if dropped:
            self.count_dropped(dropped)
