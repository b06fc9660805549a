"""Tensors of the Open Inference Protocol v2, as JSON or with the binary tensor data extension."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milonga_agent.errors import BadRequest

# A request may not make a small device decode without end.
MAX_BATCH = 256
_DATATYPES = {"f": "FP32", "i": "INT32"}


@dataclass(frozen=True)
class Request:
    """What is asked: pictures or a tensor, and which outputs are wanted how."""

    id: str
    pictures: list[bytes] | None
    image: NDArray[np.float32] | None
    # Output name -> whether it is wanted in binary.
    outputs: dict[str, bool]


def parse(body: bytes, header_length: int | None, known_outputs: tuple[str, ...]) -> Request:
    """Return the request in the body. Raises BadRequest saying what is wrong with it.

    `header_length` is the value of Inference-Header-Content-Length, None where the whole body is JSON.
    """
    if header_length is not None and not 0 <= header_length <= len(body):
        raise BadRequest(f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes")
    text = body if header_length is None else body[:header_length]
    try:
        said = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"the request is not JSON: {error}") from error
    if not isinstance(said, dict) or not isinstance(said.get("inputs"), list) or len(said["inputs"]) != 1:
        raise BadRequest('the request must have "inputs" with one input, "picture" (BYTES) or "image" (FP32)')
    binary = _Binary(b"" if header_length is None else body[header_length:])
    entry = said["inputs"][0]
    if not isinstance(entry, dict):
        raise BadRequest("an input must be an object with name, shape, datatype and data")
    picture, image = _input(entry, binary)
    return Request(str(said.get("id", "")), picture, image, _outputs(said, known_outputs))


class _Binary:
    """The bytes behind the JSON, taken in order."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def take(self, size: Any) -> bytes:
        if not isinstance(size, int) or size < 0 or self._position + size > len(self._data):
            raise BadRequest(f"binary_data_size is {size!r}, {len(self._data) - self._position} bytes are left")
        self._position += size
        return self._data[self._position - size : self._position]


def _input(entry: dict[str, Any], binary: _Binary) -> tuple[list[bytes] | None, NDArray[np.float32] | None]:
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise BadRequest(f"the shape of {name!r} must be a list of sizes, not {shape!r}")
    if shape and shape[0] > MAX_BATCH:
        raise BadRequest(f"{name!r} has a batch of {shape[0]}; at most {MAX_BATCH} are taken, send several requests")
    size = _parameters(entry).get("binary_data_size")
    raw = None if size is None else binary.take(size)
    if (name, datatype) == ("picture", "BYTES"):
        return _pictures(shape, entry, raw), None
    if (name, datatype) == ("image", "FP32"):
        return None, _image(shape, entry, raw)
    raise BadRequest(f'there is no input {name!r} of {datatype!r}; send "picture" as BYTES or "image" as FP32')


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("parameters") or {}
    if not isinstance(found, dict):
        raise BadRequest(f"parameters must be an object, not {found!r}")
    return found


def _pictures(shape: list[int], entry: dict[str, Any], raw: bytes | None) -> list[bytes]:
    found = _elements(raw) if raw is not None else _decoded(entry.get("data"))
    if len(shape) != 1 or shape[0] != len(found) or not found:
        raise BadRequest(f"picture has the shape {shape} and {len(found)} elements; send shape [n] and n pictures")
    return found


def _elements(raw: bytes) -> list[bytes]:
    """Return the elements of a BYTES tensor: each has its length before it, four bytes, little-endian."""
    found, position = [], 0
    while position < len(raw):
        if position + 4 > len(raw):
            raise BadRequest("a BYTES element is cut off: each needs its length before it, in four bytes")
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4
        if position + length > len(raw):
            raise BadRequest(f"a BYTES element is {length} bytes long, {len(raw) - position} are left")
        found.append(raw[position : position + length])
        position += length
    return found


def _decoded(data: Any) -> list[bytes]:
    if not isinstance(data, list) or not all(isinstance(one, str) for one in data):
        raise BadRequest("the data of picture must be a list of base64 strings")
    try:
        return [base64.b64decode(one, validate=True) for one in data]
    except (binascii.Error, ValueError) as error:
        # Letters that are not ASCII are a ValueError.
        raise BadRequest(f"the data of picture is not base64: {error}") from error


def _image(shape: list[int], entry: dict[str, Any], raw: bytes | None) -> NDArray[np.float32]:
    try:
        if raw is not None:
            values = np.frombuffer(raw, dtype="<f4")
        else:
            values = np.asarray(entry.get("data"), dtype=np.float32).ravel()
        image = values.reshape(shape)
    except (ValueError, TypeError) as error:
        raise BadRequest(f"the data of image does not fill the shape {shape}: {error}") from error
    if not np.isfinite(image).all():
        raise BadRequest("the data of image holds values that are not finite")
    return image


def _outputs(said: dict[str, Any], known: tuple[str, ...]) -> dict[str, bool]:
    default = bool(_parameters(said).get("binary_data_output", False))
    wanted = said.get("outputs")
    if wanted is None:
        return dict.fromkeys(known, default)
    names: dict[str, bool] = {}
    for one in wanted if isinstance(wanted, list) else [wanted]:
        name = one.get("name") if isinstance(one, dict) else None
        if name not in known:
            raise BadRequest(f"there is no output {name!r}; there are: {', '.join(known)}")
        names[name] = bool(_parameters(one).get("binary_data", default))
    return names


def encode(head: dict[str, Any], outputs: Mapping[str, Any], binary: dict[str, bool]) -> tuple[bytes, int | None]:
    """Return the response body, and the length of its JSON where binary data follows.

    `outputs` are float32 or int32 arrays, or lists of text, by name.
    """
    described, tail = [], b""
    for name, wants_binary in binary.items():
        value = outputs[name]
        text = isinstance(value, list)
        entry: dict[str, Any] = {
            "name": name,
            "datatype": "BYTES" if text else _DATATYPES[value.dtype.kind],
            "shape": [len(value)] if text else list(value.shape),
        }
        if wants_binary:
            data = _binary_of(value)
            entry["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            entry["data"] = value if text else value.ravel().tolist()
        described.append(entry)
    text_bytes = json.dumps({**head, "outputs": described}).encode()
    return text_bytes + tail, len(text_bytes) if any(binary.values()) else None


def _binary_of(value: Any) -> bytes:
    if isinstance(value, list):
        encoded = [one.encode() for one in value]
        return b"".join(struct.pack("<I", len(one)) + one for one in encoded)
    return bytes(np.ascontiguousarray(value, dtype=f"<{value.dtype.kind}4").tobytes())
