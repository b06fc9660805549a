"""Numbers of a packed field as they come over the wire: seven bits a byte, the lowest first, all bytes but the last with a high bit. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MORE, _BITS = 0x80, 7
# Bytes after which others of the same number come.
_FOLLOWED = bytes(range(_MORE, 256))


def varint(number: int) -> bytes:
    found = bytearray()
    while number >= _MORE:
        found.append(number % _MORE + _MORE)
        number >>= _BITS
    return bytes((*found, number))


def numbers(data: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers, and where each ends."""
    read = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(read < _MORE)
    starts = np.concatenate(([0], ends[:-1] + 1))
    values = (read[starts] & ~np.uint8(_MORE)).astype(np.int64)
    longer, place = np.arange(len(values)), 1
    while len(longer := longer[ends[longer] - starts[longer] >= place]):
        values[longer] |= (read[starts[longer] + place] & ~np.uint8(_MORE)).astype(np.int64) << (_BITS * place)
        place += 1
    return values, ends


def how_many(packed: bytes) -> int:
    """Return how many numbers these are."""
    return len(packed) if packed.isascii() else len(packed.translate(None, _FOLLOWED))


def sums(packed: Sequence[bytes], size: int) -> list[int]:
    """Return the sums by position of lists of so many numbers each."""
    # Most are of one byte each, which needs no reading.
    short = b"".join([one for one in packed if len(one) == size])
    found = np.frombuffer(short, np.uint8).reshape(-1, size).sum(axis=0, dtype=np.int64)
    long = b"".join([one for one in packed if len(one) != size])
    if long:
        values, _ = numbers(long)
        found = found + values.reshape(-1, size).sum(axis=0)
    return [int(each) for each in found.tolist()]
