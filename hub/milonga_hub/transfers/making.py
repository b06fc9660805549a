"""Make the delta from one model file to another. It is checked by applying it before anyone may have it."""

from __future__ import annotations

import json
import lzma
import math
import struct
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from milonga.deltas import (
    MAGIC,
    MAX_DICTIONARY_BYTES,
    MAX_WINDOW_BYTES,
    Tensor,
    cut,
    slabs,
    stream_name,
)
from milonga.residuals import Foretelling, bits_of, foretold, planes, residual, width_of

from milonga_hub.transfers.layout import SMALLEST_BYTES, tensors
from milonga_hub.transfers.matching import Match, Weights, best_match

# Bytes without order are not made smaller by trying harder; text and structure are.
_PLANE_LEVEL, _NEW_LEVEL = 9, 19
_LARGE_BYTES = 8 << 20
# Where the bytes are nearly random, nothing else helps either.
_LITTLE_ORDER_SHARE = 0.9
_SMALLER_SHARE = 0.97
# Bytes that do not depend on their neighbours.
_RANGE_CODER = {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}
# Weights are found in a file of another engine by so many of their first bytes.
_KEY_BYTES = 48


@dataclass(frozen=True)
class _Placed:
    """A tensor of the target and how it is foretold."""

    tensor: Tensor
    match: Match


def make(base: Path, target: Path) -> bytes:
    """Return the smallest delta that was found."""
    old, new = base.read_bytes(), target.read_bytes()
    made = [_packed(old, new, placed) for placed in _plans(old, new)]
    return min(made, key=len)


def _plans(old: bytes, new: bytes) -> list[list[_Placed]]:
    """Return the ways to try: by tensors where they are known, and without any."""
    known, wanted = Weights.of(old), Weights.of(new)
    plans: list[list[_Placed]] = []
    if wanted.tensors:
        plans.append([_Placed(one, best_match(one, wanted, known)) for one in wanted.tensors])
    elif known.tensors:
        plans.append(_found(old, new, known.tensors))
    elif len(old) == len(new):
        plans.append(_aligned(old, new))
    if len(old) <= MAX_DICTIONARY_BYTES:
        plans.append([])
    return plans or [[]]


def _found(old: bytes, new: bytes, known: Sequence[Tensor]) -> list[_Placed]:
    """Find the base's weights in a file whose layout is not known: as they are, or in half precision."""
    placed: list[_Placed] = []
    for tensor in known:
        for dtype, how in ((tensor.dtype, Foretelling.EQUAL), ("f2", Foretelling.CAST)):
            if how is Foretelling.CAST and tensor.dtype != "f4":
                continue
            content = foretold(tensor.values(old), dtype, how, None).tobytes()
            at = new.find(content[:_KEY_BYTES])
            if at >= 0 and len(content) <= len(new) - at:
                front = (0,) * len(tensor.shape)
                placed.append(_Placed(replace(tensor, at=at, dtype=dtype), Match(how, tensor, front)))
                break
    return _disjoint(placed)


def _disjoint(placed: list[_Placed]) -> list[_Placed]:
    kept: list[_Placed] = []
    for one in sorted(placed, key=lambda each: (each.tensor.at, -each.tensor.size_bytes)):
        if not kept or one.tensor.at >= kept[-1].tensor.at + kept[-1].tensor.size_bytes:
            kept.append(one)
    return kept


def _aligned(old: bytes, new: bytes) -> list[_Placed]:
    """Take files of one length for the same weights at the same places, of the width that leaves the least."""
    matches = []
    for dtype in ("f4", "f2", "i1"):
        count = len(new) // width_of(dtype)
        tensor = Tensor("", 0, dtype, (count,))
        match = best_match(tensor, Weights(new, [tensor]), Weights(old, [tensor]))
        matches.append((match.bits / width_of(dtype), _Placed(tensor, match)))
    _, best = min(matches, key=lambda pair: pair[0])
    return [best] if best.tensor.size_bytes >= SMALLEST_BYTES else []


def _packed(old: bytes, new: bytes, placed: Sequence[_Placed]) -> bytes:
    streams: defaultdict[str, bytearray] = defaultdict(bytearray)
    parts: list[dict[str, Any]] = []
    at = 0
    for one in placed:
        if one.tensor.at > at:
            _add_new(new[at : one.tensor.at], parts, streams)
        parts.append(_tensor_part(one, old, new, streams))
        at = one.tensor.at + one.tensor.size_bytes
    if at < len(new):
        _add_new(new[at:], parts, streams)
    ranges = _outside(len(old), [] if not placed else tensors(old))
    packed = {name: _compressed(name, bytes(content), old, ranges) for name, content in streams.items()}
    header = {
        "base_bytes": len(old),
        "target_bytes": len(new),
        "dictionary": ranges,
        "parts": parts,
        "streams": [(name, codec, len(content)) for name, (codec, content) in packed.items()],
    }
    import zstandard

    text = zstandard.ZstdCompressor(level=_NEW_LEVEL).compress(json.dumps(header, separators=(",", ":")).encode())
    return MAGIC + struct.pack("<I", len(text)) + text + b"".join(content for _, content in packed.values())


def _add_new(content: bytes, parts: list[dict[str, Any]], streams: defaultdict[str, bytearray]) -> None:
    parts.append({"is": "new", "bytes": len(content)})
    streams["new"] += content


def _tensor_part(placed: _Placed, old: bytes, new: bytes, streams: defaultdict[str, bytearray]) -> dict[str, Any]:
    tensor, match = placed.tensor, placed.match
    values = tensor.values(new)
    part: dict[str, Any] = {"is": "tensor", "how": match.how.value, "dtype": tensor.dtype, "shape": tensor.shape}
    base = None
    if match.base is not None:
        base = cut(match.base.values(old), match.begin, tensor.shape)
        if match.how is Foretelling.EQUAL and base.shape == match.base.shape and base.tobytes() == values.tobytes():
            return {"is": "base", "at": match.base.at, "bytes": tensor.size_bytes}
        part["from"] = {
            "at": match.base.at, "dtype": match.base.dtype, "shape": match.base.shape, "begin": match.begin,
        }  # fmt: skip
    if match.factors is not None:
        part["axis"] = match.axis
        streams["factors"] += match.factors.astype("<f4").tobytes()
    for rows in slabs(tensor.shape):
        left = bits_of(values[rows], tensor.dtype).reshape(-1)
        if base is not None:
            factors = match.factors
            if factors is not None and factors.shape[0] > 1:
                factors = factors[rows]
            expected = foretold(base[rows], tensor.dtype, match.how, factors).reshape(-1)
            left = residual(left, expected, tensor.dtype)
        for plane, content in enumerate(planes(left)):
            streams[stream_name(match.how, tensor.dtype, plane)] += content
    return part


def _outside(size: int, known: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Return where the base holds no weights: what describes the network, to which new descriptions may refer."""
    ranges, at, total = [], 0, 0
    for begin, end in [*((one.at, one.at + one.size_bytes) for one in known), (size, size)]:
        if begin > at and total + begin - at <= MAX_DICTIONARY_BYTES:
            ranges.append((at, begin - at))
            total += begin - at
        at = max(at, end)
    return ranges


def _compressed(name: str, content: bytes, old: bytes, ranges: Sequence[tuple[int, int]]) -> tuple[str, bytes]:
    """Return what the stream is compressed by, and what it becomes."""
    import zstandard

    level = _NEW_LEVEL if name == "new" and len(content) <= _LARGE_BYTES else _PLANE_LEVEL
    dictionary = b"".join(old[at : at + size] for at, size in ranges) if name == "new" else b""
    reach = min(MAX_WINDOW_BYTES, max(1 << 18, len(content) + len(dictionary)))
    window = min(math.ceil(math.log2(reach)), 27) if name == "new" else 20
    parameters = zstandard.ZstdCompressionParameters.from_level(level, window_log=max(10, window))
    shared = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
    packed: bytes = zstandard.ZstdCompressor(compression_params=parameters, dict_data=shared).compress(content)
    if dictionary or len(content) > _LARGE_BYTES or len(packed) > _LITTLE_ORDER_SHARE * len(content):
        return "zstd", packed
    # zstd spends a whole bit on what takes less; a range coder does not, and takes longer.
    smaller = lzma.compress(content, format=lzma.FORMAT_XZ, filters=[_RANGE_CODER])
    return ("xz", smaller) if len(smaller) < _SMALLER_SHARE * len(packed) else ("zstd", packed)
