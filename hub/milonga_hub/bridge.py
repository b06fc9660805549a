"""One bridge between protocol messages and models: equal field names, nothing written by hand."""

from __future__ import annotations

import math
import types
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from milonga.status import FieldViolation
from pydantic import BaseModel

from milonga_hub.errors import InvalidInput, complaint

M = TypeVar("M", bound=Message)
B = TypeVar("B", bound=BaseModel)
# Those that may say NaN, for no figure.
_FLOATS = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)


def to_proto(model: object, message_class: type[M]) -> M:
    """Return the message with every field that the model has too. None leaves a field unset; NaN stands for no figure."""
    message = message_class()
    for field in _fields(message):
        value = getattr(model, field.name, None)
        if value is not None:
            _set(message, field, value)
        elif _is_double(field) and hasattr(model, field.name) and not field.has_presence:
            setattr(message, field.name, math.nan)
    return message


def from_proto(message: Message, model_class: type[B]) -> B:
    """Return the validated model. Unset message and optional fields take the model's defaults."""
    values: dict[str, Any] = {}
    for name, field, has_presence, default, annotation in _shared(message.DESCRIPTOR, model_class):
        if has_presence and not message.HasField(name):
            continue
        value = getattr(message, name)
        if not has_presence and _takes_default(value, default):
            continue
        try:
            values[name] = _get(field, value, annotation)
        except InvalidInput as error:
            if field.is_repeated:
                raise  # It says which item.
            raise error.within(name) from error
        except ValueError as error:
            # A time before the year 1 or after 9999.
            raise InvalidInput(f"{name}: {error}", (FieldViolation(name, str(error)),)) from error
    try:
        return model_class.model_validate(values)
    except ValueError as error:
        raise InvalidInput(_explain(error), _violations(error)) from error


def from_field(request: Message, name: str, model_class: type[B]) -> B:
    """Return the validated model of one field of a request, whose errors name their fields from the request on."""
    try:
        return from_proto(getattr(request, name), model_class)
    except InvalidInput as error:
        raise error.within(name) from error


def _fields(message: Message) -> Any:
    # Descriptors are typed twice, once for each implementation of protobuf; Any bridges both.
    descriptor: Any = message.DESCRIPTOR
    return descriptor.fields


def _explain(error: ValueError) -> str:
    details = getattr(error, "errors", None)
    if details is None:
        return str(error)
    return "; ".join(": ".join(filter(None, (_dotted(each["loc"]), complaint(each)))) for each in details())


def _dotted(parts: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in parts)


def _violations(error: ValueError) -> tuple[FieldViolation, ...]:
    details = getattr(error, "errors", None)
    if details is None:
        return ()
    # What is wrong with several fields together has no place of its own, and is not a violation of one.
    return tuple(FieldViolation(_path(each["loc"]), complaint(each)) for each in details() if each["loc"])


def _path(parts: tuple[str | int, ...]) -> str:
    """Return "limits[0].latency_ms" of ("limits", 0, "latency_ms")."""
    joined = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return joined.removeprefix(".")


@cache
def _shared(descriptor: Any, model_class: type[BaseModel]) -> tuple[tuple[str, Any, bool, Any, Any], ...]:
    """Return the fields that the message and the model have, with what is asked of each for every message."""
    known = model_class.model_fields
    return tuple(
        (
            field.name,
            field,
            field.has_presence,
            None if field.is_repeated else field.default_value,
            known[field.name].annotation,
        )
        for field in descriptor.fields
        if field.name in known
    )


def _takes_default(value: Any, default: Any) -> bool:
    """proto3 cannot tell 0 from unset: such fields take the model's default, others are `optional` in the proto."""
    return len(value) == 0 if default is None else bool(value == default)


def _is_double(field: Any) -> bool:
    return bool(field.type == FieldDescriptor.TYPE_DOUBLE and not field.is_repeated)


def _is_map(field: Any) -> bool:
    return bool(field.message_type is not None and field.message_type.GetOptions().map_entry)


def _set(message: Message, field: Any, value: Any) -> None:
    target = getattr(message, field.name)
    if _is_map(field):
        entry = field.message_type.fields_by_name["value"]
        for key, item in value.items():
            if entry.message_type is None:
                target[key] = item
            else:
                _fill(target[key], item)
    elif field.is_repeated:
        for item in value:
            if field.message_type is None:
                target.append(_scalar(field, item))
            else:
                _fill(target.add(), item)
    elif field.message_type is not None:
        _fill(target, value)
    else:
        setattr(message, field.name, _scalar(field, value))


def _fill(target: Message, value: Any) -> None:
    if isinstance(value, datetime):
        assert isinstance(target, Timestamp)
        target.FromDatetime(value.astimezone(UTC))
    else:
        target.CopyFrom(to_proto(value, type(target)))
        target.SetInParent()


def _scalar(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values_by_name[_prefix(field.enum_type) + value.name].number
    return value


def _prefix(enum: Any) -> str:
    return str(enum.values[0].name).removesuffix("UNSPECIFIED")


def _get(field: Any, value: Any, annotation: Any) -> Any:
    annotation = _without_none(annotation)
    if _is_map(field):
        entry = field.message_type.fields_by_name["value"]
        inner = get_args(annotation)[1]
        return {key: _one(entry, item, inner) for key, item in value.items()}
    if field.is_repeated:
        if field.message_type is None and field.enum_type is None and field.type not in _FLOATS:
            return [*value]
        inner = get_args(annotation)[0]
        return [_item(field, index, item, inner) for index, item in enumerate(value)]
    return _one(field, value, annotation)


def _item(field: Any, index: int, value: Any, annotation: Any) -> Any:
    try:
        return _one(field, value, annotation)
    except InvalidInput as error:
        raise error.within(f"{field.name}[{index}]") from error


def _one(field: Any, value: Any, annotation: Any) -> Any:
    annotation = _without_none(annotation)
    if isinstance(value, Timestamp):
        return value.ToDatetime(tzinfo=UTC)
    if isinstance(value, Message):
        return from_proto(value, annotation)
    if field.enum_type is not None:
        return _enum(field.enum_type, value, annotation)
    if isinstance(value, float) and not math.isfinite(value):
        if math.isinf(value):
            # It has no JSON: it could be stored, but never read again.
            raise InvalidInput(f"{field.name} must be a finite number")
        return None
    return value


def _enum(enum: Any, number: int, annotation: type[Enum]) -> Enum:
    found = enum.values_by_number.get(number)
    if found is None:
        raise InvalidInput(f"{number} is not a value of {enum.name}")
    return annotation[found.name.removeprefix(_prefix(enum))]


@cache
def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(arg for arg in get_args(annotation) if arg is not type(None))
    return annotation
