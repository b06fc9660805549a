"""What came of building engines on this device: kept on disk by what they were made of, and told to the hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from milonga.candidates import Candidate

from milonga_agent.files import write_atomically

_FORMAT = 1


class Outcome(str, Enum):
    """States of a build on the device, named as in the protocol."""

    FAILED = "FAILED"
    BUILT = "BUILT"
    VERIFIED = "VERIFIED"


@dataclass(frozen=True)
class Place:
    """What a build fits: the GPU, by name, and the engine's version. Empty where the device has none."""

    gpu: str
    engine_version: str


@dataclass(frozen=True)
class Record:
    """One build for one bundle. `seconds` is what it took when it was done; `cached` says that it was done before."""

    bundle: str
    engine: str
    precision: str
    engine_version: str
    gpu: str
    state: Outcome
    seconds: float = 0.0
    cached: bool = False
    error: str = ""
    max_abs_error: float | None = None
    # Share of what the network decides that it decides too; None where that was not asked.
    agreement: float | None = None


def key_of(candidate: Candidate, digests: Mapping[str, str], place: Place) -> str:
    """Return the name of a build in the cache: equal exactly where the engine would make the same again."""
    made_of = candidate.device_build
    assert made_of is not None, "only what the device builds is cached"
    parts = {
        "onnx": digests[made_of.onnx_file],
        "calibration": digests.get(made_of.calibration_file, ""),
        "target": candidate.target,
        **asdict(place),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


class Records:
    """What is known of the bundles that this device keeps, one file, written atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)

    @property
    def all(self) -> list[Record]:
        return list(self._known.values())

    def of(self, bundle: str, target: str) -> Record | None:
        return self._known.get((bundle, target))

    def keep(self, record: Record) -> None:
        self._known[record.bundle, f"{record.engine}/{record.precision}"] = record
        self._write()

    def forget_all_but(self, bundles: set[str]) -> None:
        kept = {key: record for key, record in self._known.items() if key[0] in bundles}
        if kept != self._known:
            self._known = kept
            self._write()

    def _write(self) -> None:
        whole = {"format": _FORMAT, "builds": [asdict(record) for record in self.all]}
        write_atomically(self._path, json.dumps(whole, indent=1).encode("utf-8"))


def _read(path: Path) -> dict[tuple[str, str], Record]:
    """Return what was kept. A file that is damaged or of another version is as good as none: builds are made again."""
    try:
        whole: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if whole["format"] != _FORMAT:
            return {}
        records = [Record(**{**one, "state": Outcome(one["state"])}) for one in whole["builds"]]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {(one.bundle, f"{one.engine}/{one.precision}"): one for one in records}
