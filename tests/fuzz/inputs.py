"""Inputs that nobody means well: messages with values that no device has, and bytes that were damaged on purpose."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

_EDITS = 6
_TEXTS = (
    "",
    "a",
    "../../etc/passwd",
    "\x00",
    "\u202e",
    "é" * 300,
    "sha256:" + "0" * 64,
    "*",
    "x" * 70_000,
    "-1",
    "NaN",
)
_NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63), 255, 65_536, 1000)
_FLOATS = (0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e308, 5e-324, 0.5)
_VALUES: tuple[Any, ...] = (None, True, [], {}, "", "x", 0, -1, 2**70, 1.5, 1e400, [[]], {"a": None}, [None], "\ud800")
_BOUNDS = {
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}


def damaged(source: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of the seeds with a few edits: bits turned, parts cut, doubled, moved, or taken from another seed."""
    data = bytearray(source.choice(seeds))
    for _ in range(source.randint(1, _EDITS)):
        at = source.randrange(len(data) + 1)
        span = source.choice((1, 1, 2, 4, 16, 256))
        kind = source.randrange(6)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << source.randrange(8)
        elif kind == 1:
            data[at : at + span] = source.randbytes(span)
        elif kind == 2:
            del data[at : at + span]
        elif kind == 3:
            data[at:at] = data[at : at + span] * source.choice((1, 2, 50))
        elif kind == 4:
            del data[at:]
        else:
            other = source.choice(seeds)
            begin = source.randrange(len(other) + 1)
            data[at : at + span] = other[begin : begin + span]
    return bytes(data)


def strange(source: random.Random, message: Message, depth: int = 0) -> None:
    """Fill a message with values at the ends of what its fields can hold, and beyond what they mean."""
    descriptor: Any = message.DESCRIPTOR
    for field in descriptor.fields:
        if source.random() < 0.4 or depth > 4:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = getattr(message, field.name)
            key, value = (field.message_type.fields_by_name[part] for part in ("key", "value"))
            for _ in range(source.randrange(3)):
                if value.message_type is None:
                    entries[_scalar(source, key)] = _scalar(source, value)
                else:
                    strange(source, entries[_scalar(source, key)], depth + 1)
        elif field.is_repeated:
            for _ in range(source.choice((0, 1, 2, 3, 200))):
                if field.message_type is None:
                    getattr(message, field.name).append(_scalar(source, field))
                else:
                    strange(source, getattr(message, field.name).add(), depth + 2)
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            strange(source, getattr(message, field.name), depth + 1)
        else:
            setattr(message, field.name, _scalar(source, field))


def _scalar(source: random.Random, field: Any) -> Any:
    kind = _kind(field)
    if kind in _BOUNDS:
        low, high = _BOUNDS[kind]
        return max(low, min(high, source.choice(_NUMBERS)))
    if kind == "enum":
        return source.choice([*(value.number for value in field.enum_type.values), 99, -1])
    if kind in ("double", "float"):
        return source.choice(_FLOATS)
    if kind == "bool":
        return source.random() < 0.5
    text = source.choice(_TEXTS)
    return text if kind == "string" else text.encode()


def _kind(field: Any) -> str:
    names = {
        field.TYPE_INT32: "int32", field.TYPE_INT64: "int64", field.TYPE_UINT32: "uint32", field.TYPE_UINT64: "uint64",
        field.TYPE_ENUM: "enum", field.TYPE_DOUBLE: "double", field.TYPE_FLOAT: "float", field.TYPE_BOOL: "bool",
        field.TYPE_STRING: "string", field.TYPE_BYTES: "bytes",
    }  # fmt: skip
    return names[field.type]


def strange_json(source: random.Random, seeds: Sequence[Any]) -> Any:
    """Return one of the documents with some of its values replaced, removed or buried."""
    document = json.loads(json.dumps(source.choice(seeds)))
    for _ in range(source.randint(1, 3)):
        document = _replaced(source, document)
    return document


def _replaced(source: random.Random, node: Any) -> Any:
    keys: list[Any] = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    if not keys or source.random() < 0.15:
        return copy.deepcopy(source.choice(_VALUES))
    key = source.choice(keys)
    if isinstance(node, dict) and source.random() < 0.1:
        del node[key]
    else:
        node[key] = _replaced(source, node[key])
    return node
