"""Which deltas are worth making and sending. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from posixpath import splitext

# A smaller file is sent before a delta of it is asked for.
SMALLEST_BYTES = 16 << 10
# Making a delta takes eleven times as much memory.
LARGEST_BYTES = 128 << 20
# A delta costs the device time, and a second way to fail.
_WORTH_SHARE = 0.9
# From which files a delta may begin: each takes as long to try as the first.
MOST_BASES = 2


@dataclass(frozen=True)
class Listed:
    """A file as the manifest of a bundle lists it."""

    path: str
    digest: str
    size_bytes: int


def pays(delta_bytes: int, whole_bytes: int) -> bool:
    """Say whether a device should take the delta."""
    return delta_bytes <= _WORTH_SHARE * whole_bytes


def may_pay(size_bytes: int) -> bool:
    """Say whether making a delta of such a file is worth the try."""
    return SMALLEST_BYTES <= size_bytes <= LARGEST_BYTES


def bases(wanted: Listed, held: Iterable[Listed]) -> list[str]:
    """Return the digests of what a delta should begin from, the likeliest first.

    Weights are most alike in the file of the same name, then in one of the same kind, then in an ONNX file, of which those of
    other engines are made.
    """
    kind = splitext(wanted.path)[1]

    def unlike(file: Listed) -> tuple[bool, bool, bool, int]:
        suffix = splitext(file.path)[1]
        return (file.path != wanted.path, suffix != kind, suffix != ".onnx", abs(file.size_bytes - wanted.size_bytes))

    able = [file for file in held if may_pay(file.size_bytes) and file.digest != wanted.digest]
    found = dict.fromkeys(file.digest for file in sorted(able, key=unlike))
    return list(found)[:MOST_BASES]
