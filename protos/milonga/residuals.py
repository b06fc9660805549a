"""What is left of a tensor where another one foretells it: the arithmetic of deltas between model files (docs/adr/0018).

Everything here is exact on every machine: integers wrap, and floats are multiplied in 64 bits and rounded once.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Elements as they lie in files, little-endian. bfloat16 is known by its bits alone.
DTYPES = {
    "f8": "<f8", "f4": "<f4", "f2": "<f2", "b2": "<u2",
    "i8": "<i8", "i4": "<i4", "i2": "<i2", "i1": "i1",
    "u8": "<u8", "u4": "<u4", "u2": "<u2", "u1": "u1",
}  # fmt: skip
_FLOATS = ("f8", "f4", "f2", "b2")

Bits = NDArray[Any]


class Foretelling(str, Enum):
    """How the elements of a tensor are foretold by those of another."""

    # By nothing: they are only split into planes.
    NONE = "none"
    # They are the same numbers in the same type.
    EQUAL = "equal"
    # Times one factor for each output channel, as batch normalisation that was folded in differs between subnets.
    SCALED = "scaled"
    # The same numbers in another float type.
    CAST = "cast"
    # Divided by a scale for each output channel, rounded to int8.
    QUANTISED = "quantised"


def width_of(dtype: str) -> int:
    """Return how many bytes an element has."""
    return np.dtype(DTYPES[dtype]).itemsize


def bits_of(values: NDArray[Any], dtype: str) -> Bits:
    """Return the elements as unsigned integers of their width."""
    return np.ascontiguousarray(values).view(f"<u{width_of(dtype)}")


def foretold(base: NDArray[Any], dtype: str, how: Foretelling, factors: NDArray[np.float32] | None) -> Bits:
    """Return the bits that the base foretells; `factors` has as many dimensions as the base."""
    if how is Foretelling.EQUAL:
        return bits_of(base, dtype)
    kind = np.dtype(DTYPES[dtype])
    with np.errstate(all="ignore"):
        if how is Foretelling.CAST:
            return bits_of(base.astype(kind), dtype)
        assert factors is not None
        if how is Foretelling.SCALED:
            return bits_of((base.astype(np.float64) * factors.astype(np.float64)).astype(kind), dtype)
        limits = np.iinfo(kind)
        scaled = np.rint(base.astype(np.float64) / factors.astype(np.float64))
        return bits_of(np.nan_to_num(np.clip(scaled, limits.min, limits.max)).astype(kind), dtype)


def residual(values: Bits, expected: Bits, dtype: str) -> Bits:
    """Return how far the values are from those expected, as unsigned integers that are small where they are near."""
    difference = _ordered(values, dtype) - _ordered(expected, dtype)
    one, top = _constants(difference)
    # Zigzag: 0, -1, 1, -2 ... become 0, 1, 2, 3 ...
    return np.asarray((difference << one) ^ -(difference >> top))


def restored(left: Bits, expected: Bits, dtype: str) -> Bits:
    """Return the values of which `residual` gave this."""
    one, _ = _constants(left)
    difference = (left >> one) ^ -(left & one)
    return _unordered(_ordered(expected, dtype) + difference, dtype)


def planes(left: Bits) -> list[bytes]:
    """Return the bytes of each significance by themselves, the least significant first."""
    width = left.dtype.itemsize
    split = left.reshape(-1).view(np.uint8).reshape(-1, width)
    return [split[:, index].tobytes() for index in range(width)]


def joined(parts: list[bytes]) -> Bits:
    """Return the integers whose planes these are."""
    whole = np.empty((len(parts[0]), len(parts)), dtype=np.uint8)
    for index, part in enumerate(parts):
        whole[:, index] = np.frombuffer(part, dtype=np.uint8)
    return whole.reshape(-1).view(f"<u{len(parts)}")


def _constants(bits: Bits) -> tuple[Any, Any]:
    kind = bits.dtype.type
    return kind(1), kind(8 * bits.dtype.itemsize - 1)


def _ordered(bits: Bits, dtype: str) -> Bits:
    """Return integers in the order of the floats that the bits stand for, so that near floats are near integers."""
    if dtype not in _FLOATS:
        return bits
    one, top = _constants(bits)
    return np.asarray(bits ^ (-(bits >> top) | (one << top)))


def _unordered(integers: Bits, dtype: str) -> Bits:
    if dtype not in _FLOATS:
        return integers
    one, top = _constants(integers)
    return np.asarray(integers ^ ((integers >> top) - one | (one << top)))
