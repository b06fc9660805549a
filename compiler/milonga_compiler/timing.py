"""Kernels that a device times while they are tuned: packed into one file here, and what it found of them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

# The file's list of what is in it: [{"file": NAME, "arguments": [{"dtype": "float32", "shape": [1, 8]}, ...]}, ...].
LIST = "kernels.json"
# What a device may spend on one kernel in all. Untuned ones of large networks take seconds on small boards.
MOST_SECONDS_EACH = 30.0


@dataclass(frozen=True)
class Library:
    """A kernel compiled for the device: its function is "main", and takes tensors of these dtypes and shapes."""

    path: Path
    arguments: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Times:
    """What a device found, in the order of the file: `ms` is None where `errors` says why.

    `waited_seconds` no device was there, or it had no time; a budget does not pay for them. Where `gone` says why, nothing was
    timed and there is no use in asking again.
    """

    ms: tuple[float | None, ...] = ()
    errors: tuple[str, ...] = ()
    device: str = ""
    waited_seconds: float = 0.0
    gone: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Times:
        return cls(**{**said, "ms": tuple(said["ms"]), "errors": tuple(said["errors"])})


# Has a device time the kernels in a file, which it may keep until it returns.
Timer = Callable[[Path], Times]


def pack(libraries: Sequence[Library], path: Path) -> None:
    """Write the libraries into one file, for a Timer."""
    with zipfile.ZipFile(str(path), "w", zipfile.ZIP_DEFLATED) as packed:
        listed = []
        for number, one in enumerate(libraries):
            arguments = [{"dtype": dtype, "shape": list(shape)} for dtype, shape in one.arguments]
            listed.append({"file": f"{number}.so", "arguments": arguments})
            packed.write(str(one.path), f"{number}.so")
        packed.writestr(LIST, json.dumps(listed))


def count_in(path: Path) -> int:
    """Return how many kernels are in a file."""
    with zipfile.ZipFile(str(path)) as packed:
        return len(json.loads(packed.read(LIST)))
