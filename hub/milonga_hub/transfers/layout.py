"""Where the weights lie in model files, read from the bytes themselves: nothing is loaded, and no engine is needed.

ONNX is a protocol buffer (onnx.proto): ModelProto.graph = 7, GraphProto.initializer = 5, GraphProto.node = 1,
NodeProto.attribute = 5, AttributeProto.t = 5, TensorProto.dims = 1, .data_type = 2, .float_data = 4, .name = 8, .raw_data = 9.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from milonga.deltas import Tensor
from milonga.residuals import width_of
from numpy.typing import NDArray

# TensorProto.DataType.
_ONNX = {
    1: "f4",
    2: "u1",
    3: "i1",
    4: "u2",
    5: "i2",
    6: "i4",
    7: "i8",
    10: "f2",
    11: "f8",
    12: "u4",
    13: "u8",
    16: "b2",
}
# A smaller one takes more room in the header of a delta than it saves.
SMALLEST_BYTES = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def tensors(content: Any) -> list[Tensor]:
    """Return the weights of an ONNX file in the order of their bytes; none where it is no such file."""
    return [tensor for tensor in _all(content) if tensor.size_bytes >= SMALLEST_BYTES]


def floats(content: Any) -> dict[str, NDArray[Any]]:
    """Return the values of an ONNX file's float tensors by name, of the small ones too."""
    return {tensor.name: tensor.values(content).reshape(-1) for tensor in _all(content) if tensor.dtype == "f4"}


def _all(content: Any) -> list[Tensor]:
    try:
        found = [
            tensor
            for number, at, end in _fields(content, 0, len(content))
            if number == 7 and end is not None
            for tensor in _of_graph(content, at, end)
        ]
    except (ValueError, IndexError):
        return []
    return sorted(found, key=lambda tensor: tensor.at)


def _of_graph(content: Any, at: int, end: int) -> Iterator[Tensor]:
    for number, start, stop in _fields(content, at, end):
        if stop is None:
            continue
        if number == 5:
            yield from _tensor(content, start, stop)
        elif number == 1:
            # Constants lie in the attributes of nodes.
            for inner, first, last in _fields(content, start, stop):
                if inner == 5 and last is not None:
                    for number_, one, two in _fields(content, first, last):
                        if number_ == 5 and two is not None:
                            yield from _tensor(content, one, two)


def _tensor(content: Any, at: int, end: int) -> Iterator[Tensor]:
    name, dtype, shape, raw = "", 0, [], None
    for number, start, stop in _fields(content, at, end):
        if number == 1 and stop is None:
            shape.append(start)
        elif number == 1 and stop is not None:  # Packed.
            while start < stop:
                value, start = _varint(content, start)
                shape.append(value)
        elif number == 2 and stop is None:
            dtype = start
        elif number == 8 and stop is not None:
            name = bytes(content[start:stop]).decode("utf-8", "replace")
        elif number in (4, 9) and stop is not None:
            # Packed float_data has the bytes that raw_data would have.
            raw = (start, stop)
    if raw is None or dtype not in _ONNX:
        return
    size_bytes = raw[1] - raw[0]
    if math.prod(shape) * width_of(_ONNX[dtype]) == size_bytes:
        yield Tensor(name, raw[0], _ONNX[dtype], tuple(shape))


def _fields(content: Any, at: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """Yield (number, value, None) of varints and (number, begin, end) of bytes. Raises ValueError for anything else."""
    while at < end:
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
            yield number, value, None
        elif kind == _BYTES:
            size, at = _varint(content, at)
            if at + size > end:
                raise ValueError("a field is longer than what it is in")
            yield number, at, at + size
            at += size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"there is no wire type {kind}")


def _varint(content: Any, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
