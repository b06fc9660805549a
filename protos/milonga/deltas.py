"""Read a delta: a file that makes one model file out of another (docs/adr/0018). Needs numpy and zstandard.

    b"MILONGA DELTA 1\\n", length of the header (4 bytes, little-endian), header (JSON, zstd), streams (each zstd or xz)

The header says which file the delta begins from, which it makes, and by which parts; each part gives the next bytes of the
target: some of the base as they are, some of the stream "new", or a tensor, foretold by one of the base, with what is left of it
in the streams of its kind, one for each byte of an element. Streams are read side by side, so that little memory is needed.
"""

from __future__ import annotations

import io
import json
import lzma
import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from milonga.residuals import DTYPES, Foretelling, foretold, joined, restored, width_of

FORMAT = 1
MAGIC = b"MILONGA DELTA 1\n"
# So much of the base may be what the stream "new" refers to; it is held in memory.
MAX_DICTIONARY_BYTES = 16 << 20
# A tensor is made in slabs of about so many elements.
SLAB_ELEMENTS = 1 << 18
MAX_WINDOW_BYTES = 1 << 27
_MAX_HEADER_BYTES = 16 << 20
_LENGTH = struct.Struct("<I")
# What is copied at once.
_PIECE_BYTES = 1 << 20


class DeltaInvalid(ValueError):
    """The file is no delta, or none for this base."""


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in a file. `shape` is in elements, the last dimension the innermost."""

    name: str
    at: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.elements * width_of(self.dtype)

    def values(self, content: Any) -> np.ndarray[Any, Any]:
        """Return the tensor as a view into its file's content."""
        if self.at < 0 or min(self.shape, default=1) < 0:
            raise DeltaInvalid(f"the tensor {self.name} lies nowhere")
        flat = np.frombuffer(content, dtype=DTYPES[self.dtype], count=self.elements, offset=self.at)
        return flat.reshape(self.shape)


def slabs(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield the slices of the first dimension by which a tensor is made, piece by piece."""
    rows = shape[0] if shape else 1
    step = max(1, SLAB_ELEMENTS // max(1, math.prod(shape[1:])))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def cut(values: Any, begin: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """Return as much of the base's tensor as the target's has, from `begin` on in each dimension."""
    return values[tuple(slice(start, start + size) for start, size in zip(begin, shape))]


def stream_name(how: Foretelling, dtype: str, plane: int) -> str:
    """Return the stream in which this byte of what is left lies."""
    return f"{how.value} {dtype} {plane}"


def apply(delta: Path, base: Path, out: IO[bytes]) -> None:
    """Write the target to `out`. Raises DeltaInvalid; whoever calls checks the target's digest."""
    try:
        with _mapped(delta) as packed, _mapped(base) as content:
            _Reading(packed, content).write(out)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, struct.error, RecursionError) as error:
        raise DeltaInvalid(f"{delta.name} is not a delta for {base.name}: {error}") from error


class _mapped:
    """A file's content, without reading all of it into memory."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            # An empty file cannot be mapped.
            empty = path.stat().st_size == 0
            self._map = None if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __enter__(self) -> Any:
        return self._map if self._map is not None else b""

    def __exit__(self, *error: object) -> None:
        # Not closed: arrays may still look into it; it goes with the last of them.
        self._map = None


class _Reading:
    def __init__(self, packed: Any, base: Any) -> None:
        import zstandard

        self._zstd = zstandard
        self._packed, self._base = packed, base
        begin = len(MAGIC) + _LENGTH.size
        if packed[: len(MAGIC)] != MAGIC:
            raise DeltaInvalid("it does not begin as one")
        (size,) = _LENGTH.unpack(packed[len(MAGIC) : begin])
        try:
            text = zstandard.ZstdDecompressor().decompress(
                packed[begin : begin + size], max_output_size=_MAX_HEADER_BYTES
            )
        except zstandard.ZstdError as error:
            raise DeltaInvalid(str(error)) from error
        self._header = json.loads(text)
        if self._header["base_bytes"] != len(base):
            raise DeltaInvalid("it begins from another file")
        self._streams = {}
        at, view = begin + size, memoryview(packed)
        for name, codec, stream_bytes in self._header["streams"]:
            self._streams[name] = self._opened(name, codec, view[at : at + stream_bytes])
            at += stream_bytes

    def _opened(self, name: str, codec: str, content: memoryview) -> Any:
        if codec == "xz":
            return lzma.LZMAFile(io.BytesIO(content))
        dictionary = self._dictionary() if name == "new" else None
        decompressor = self._zstd.ZstdDecompressor(dict_data=dictionary, max_window_size=MAX_WINDOW_BYTES)
        return decompressor.stream_reader(content)

    def _dictionary(self) -> Any:
        ranges = self._header["dictionary"]
        if sum(size for _, size in ranges) > MAX_DICTIONARY_BYTES:
            raise DeltaInvalid("it refers to more of its base than fits memory")
        content = b"".join(self._base[at : at + size] for at, size in ranges)
        return self._zstd.ZstdCompressionDict(content, dict_type=self._zstd.DICT_TYPE_RAWCONTENT) if content else None

    def write(self, out: IO[bytes]) -> None:
        left = self._header["target_bytes"]
        for part in self._header["parts"]:
            for piece in self._pieces(part):
                left -= len(piece)
                if left < 0:
                    raise DeltaInvalid("it makes more than it says")
                out.write(piece)
        if left:
            raise DeltaInvalid("it makes less than it says")

    def _pieces(self, part: dict[str, Any]) -> Iterator[bytes]:
        if part["is"] == "base":
            at, end = part["at"], part["at"] + part["bytes"]
            for start in range(at, end, _PIECE_BYTES):
                yield self._base[start : min(end, start + _PIECE_BYTES)]
        elif part["is"] == "new":
            for start in range(0, part["bytes"], _PIECE_BYTES):
                yield self._read("new", min(_PIECE_BYTES, part["bytes"] - start))
        else:
            yield from self._tensor(part)

    def _tensor(self, part: dict[str, Any]) -> Iterator[bytes]:
        how, dtype, shape = Foretelling(part["how"]), part["dtype"], tuple(part["shape"])
        base = factors = None
        if how is not Foretelling.NONE:
            source = part["from"]
            tensor = Tensor("", source["at"], source["dtype"], tuple(source["shape"]))
            base = cut(tensor.values(self._base), tuple(source["begin"]), shape)
            if base.shape != shape:
                raise DeltaInvalid("a tensor is larger than the one that foretells it")
        if how in (Foretelling.SCALED, Foretelling.QUANTISED):
            count = shape[part["axis"]]
            along = [1] * len(shape)
            along[part["axis"]] = count
            factors = np.frombuffer(self._read("factors", 4 * count), dtype="<f4").reshape(along)
        for rows in slabs(shape):
            count = (rows.stop - rows.start) * math.prod(shape[1:])
            left = joined([self._read(stream_name(how, dtype, plane), count) for plane in range(width_of(dtype))])
            if base is None:
                yield left.tobytes()
                continue
            along_rows = factors[rows] if factors is not None and factors.shape[0] > 1 else factors
            expected = foretold(base[rows], dtype, how, along_rows).reshape(-1)
            yield restored(left, expected, dtype).tobytes()

    def _read(self, name: str, size: int) -> bytes:
        try:
            content: bytes = self._streams[name].read(size)
            while len(content) < size:
                more = self._streams[name].read(size - len(content))
                if not more:
                    raise DeltaInvalid(f"its stream {name!r} ends early")
                content += more
        except (self._zstd.ZstdError, lzma.LZMAError, EOFError) as error:
            raise DeltaInvalid(str(error)) from error
        return content
