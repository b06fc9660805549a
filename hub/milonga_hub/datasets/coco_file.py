"""An annotation file of COCO: https://cocodataset.org/#format-data, "Object Detection".

What makes no sense at all is refused with the place where it stands; what is wrong of one annotation is left to the reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from milonga_hub.datasets.json_items import Items
from milonga_hub.errors import InvalidInput

_NAMED_ERRORS = 3
_KEYS = (b'"images"', b'"annotations"', b'"categories"')
_CHUNK_BYTES = 1 << 20


@dataclass(slots=True, kw_only=True)
class CocoImage:
    id: int | str
    file_name: str
    width: float | None = None
    height: float | None = None


@dataclass(slots=True, kw_only=True)
class CocoAnnotation:
    id: int | str | None = None
    image_id: int | str
    category_id: int | str
    # x and y of the upper left corner, width and height, in pixels from 0.
    bbox: Any = None
    iscrowd: Any = 0


@dataclass(slots=True, kw_only=True)
class CocoCategory:
    id: int | str
    name: str
    supercategory: str | None = None


@dataclass(slots=True)
class CocoFile:
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


_KINDS: dict[str, TypeAdapter[Any]] = {
    "images": TypeAdapter(CocoImage),
    "annotations": TypeAdapter(CocoAnnotation),
    "categories": TypeAdapter(CocoCategory),
}


def looks_like_one(file: IO[bytes]) -> bool:
    """Whether a JSON file is one of instances; those of captions have no categories."""
    missing, end = set(_KEYS), b""
    while missing and (data := file.read(_CHUNK_BYTES)):
        text = end + data
        missing = {key for key in missing if key not in text}
        end = text[-max(map(len, _KEYS)) :]
    return not missing


def parse(path: str, file: IO[bytes]) -> CocoFile:
    """Return the file's boxes without their outlines, one read after the other.

    Raises InvalidInput naming the places that cannot be understood.
    """
    return _checked(path, CocoFile(**_lists(path, file)))


def _lists(path: str, file: IO[bytes]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    wrong: list[str] = []
    for key, place, value in Items(path, file):
        if key not in _KINDS:
            continue
        if not place:
            found[key] = []
        if place is None:
            wrong += [] if value == [] else [f"{key}: it must be a list"]
            continue
        try:
            found[key].append(_KINDS[key].validate_python(value))
        except ValidationError as error:
            wrong += [_told(key, place, one) for one in error.errors(include_input=False, include_url=False)]
        if len(wrong) >= _NAMED_ERRORS:
            break
    else:
        wrong += [f"{key}: it is missing" for key in _KINDS if key not in found]
    if wrong:
        raise InvalidInput(f"{path} is not a COCO annotation file: {'; '.join(wrong[:_NAMED_ERRORS])}")
    return found


def _told(key: str, place: int, error: Mapping[str, Any]) -> str:
    return f"{'.'.join(map(str, (key, place, *error['loc'])))}: {error['msg']}"


def _checked(path: str, file: CocoFile) -> CocoFile:
    for kind, given in (
        ("id", [one.id for one in file.categories]),
        ("name", [one.name for one in file.categories]),
    ):
        if twice := _twice(given):
            raise InvalidInput(f"{path}: categories have {kind} {twice[0]!r} more than once; give each its own")
    if any(not one.name.strip() for one in file.categories):
        raise InvalidInput(f"{path}: a category has no name; give it one")
    return file


def _twice(values: Sequence[int | str]) -> list[int | str]:
    return [value for value, count in Counter(values).items() if count > 1]


def used_categories(file: CocoFile) -> tuple[list[CocoCategory], list[str]]:
    """Return the categories in the order of their ids, and the names of those that only group others.

    Exports of Roboflow begin with such a group, which no annotation is of.
    """
    used = {one.category_id for one in file.annotations}
    grouping = {one.supercategory for one in file.categories if one.supercategory != one.name}
    groups = [one.name for one in file.categories if one.id not in used and one.name in grouping]
    kept = [one for one in file.categories if one.name not in groups]
    return sorted(kept, key=lambda one: (isinstance(one.id, str), one.id)), groups
