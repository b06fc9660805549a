"""An annotation file of COCO: https://cocodataset.org/#format-data, "Object Detection".

What makes no sense at all is refused with the place where it stands; what is wrong of one annotation is left to the reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from milonga_hub.errors import InvalidInput

_NAMED_ERRORS = 3


class CocoImage(BaseModel):
    id: int | str
    file_name: str
    width: float | None = None
    height: float | None = None


class CocoAnnotation(BaseModel):
    id: int | str | None = None
    image_id: int | str
    category_id: int | str
    # x and y of the upper left corner, width and height, in pixels from 0.
    bbox: Any = None
    iscrowd: Any = 0


class CocoCategory(BaseModel):
    id: int | str
    name: str
    supercategory: str | None = None


class CocoFile(BaseModel):
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def looks_like_one(data: bytes) -> bool:
    """Whether a JSON file is one of instances; those of captions have no categories."""
    return all(key in data for key in (b'"images"', b'"annotations"', b'"categories"'))


def parse(path: str, data: bytes) -> CocoFile:
    """Return the file's content. Raises InvalidInput naming the places that cannot be understood."""
    try:
        file = CocoFile.model_validate_json(data)
    except ValidationError as error:
        errors = error.errors(include_input=False, include_url=False)
        places = (f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in errors[:_NAMED_ERRORS])
        raise InvalidInput(f"{path} is not a COCO annotation file: {'; '.join(places)}") from error
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
