"""Read data sets in YOLO's layout: a data.yaml that names classes and splits, pictures, and a label file for each.

Everything here works on text and paths as they are written, so that archives and folders are read alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

ENDINGS = frozenset({".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"})
# ultralytics takes no smaller pictures.
SMALLEST_PX = 10
# Beyond this, a coordinate is no rounding error (ultralytics.data.utils.verify_image_label has the same).
MOST_BEYOND = 0.01
# A millionth of a picture is far below a pixel; two tools that write one box then mean one box.
_DECIMALS = 6

Path = TypeVar("Path", bound=PurePath)


class Row(NamedTuple):
    """One object: the number of its class, and its box as centre, width and height from 0 to 1 of the picture."""

    number: int
    x: float
    y: float
    width: float
    height: float


class Flaw(NamedTuple):
    """What is wrong with one line of a label file."""

    line: int
    reason: str


def names(described: Any) -> tuple[str, ...]:
    """Return the class names of what a data.yaml holds. Raises ValueError saying what to write there."""
    given = described.get("names") if isinstance(described, dict) else None
    if isinstance(given, dict):
        if sorted(given, key=str) != sorted(range(len(given)), key=str):
            raise ValueError(f"names must be numbered from 0 without gaps, not {sorted(given, key=str)}")
        given = [given[index] for index in range(len(given))]
    if not isinstance(given, list) or not given:
        raise ValueError("names is missing; list the classes, for instance: names: [bolt, nut]")
    found = tuple(str(one) for one in given)
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ValueError(f"names has {', '.join(map(repr, twice))} more than once; give each class a name of its own")
    return found


def places(described: Mapping[str, Any], split: str) -> tuple[tuple[str, ...], ...]:
    """Return for each entry of a split where its pictures may lie, the likeliest first, relative to the data.yaml."""
    given = described.get(split) or ()
    # Where another machine's folder is named, pictures mostly lie beside the file.
    roots = [str(described.get("path") or "."), "."]
    return tuple(
        tuple(f"{root}/{one}" for one in (text, _without_dots(text)) for root in roots)
        for text in map(str, given if isinstance(given, (list, tuple)) else [given])
    )


def _without_dots(place: str) -> str:
    """Some exports name folders from within a folder that is not there: ../train/images."""
    return place[3:] if place.startswith("../") else place


def labels_of(picture: Path) -> Path:
    """Return the label file of a picture: the last folder named "images" becomes "labels", as ultralytics has it."""
    parts = list(picture.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return type(picture)(*parts).with_suffix(".txt")


def rows(text: str, classes: int) -> tuple[list[Row], list[Flaw]]:
    """Return the objects of a label file, doubles once, and its flaws. Empty lines are none; polygons become boxes."""
    found: dict[Row, None] = {}
    flaws = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            read = _row(line.split(), classes)
            if isinstance(read, Row):
                # The same object twice would count twice.
                found[read] = None
            else:
                flaws.append(Flaw(number, read))
    return list(found), flaws


def _row(words: Sequence[str], classes: int) -> Row | str:
    """Return the object of one line, or what is wrong with it."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return f"{' '.join(words)!r} is not numbers; write: class x y width height"
    if not all(math.isfinite(value) for value in values):
        return "has a value that is not finite; remove the line"
    if len(values) != 5 and not (len(values) >= 7 and len(values) % 2):
        return f"has {len(values)} values; write five: class x y width height"
    number, *shape = values
    if number != int(number) or not 0 <= number < classes:
        return f"class {words[0]} is none of data.yaml's {classes} (0 to {classes - 1}); add its name or change it"
    if max(shape) > 1 + MOST_BEYOND or min(shape) < -MOST_BEYOND:
        return "lies outside of the picture; coordinates are shares of its width and height, from 0 to 1, not pixels"
    if len(shape) > 4:
        xs, ys = shape[0::2], shape[1::2]
        shape = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
    return within(int(number), *shape)


def within(number: int, x: float, y: float, width: float, height: float) -> Row | str:
    """Cut what juts out of the picture off the box. Returns words for one of which nothing is left."""
    left, right = max(x - width / 2, 0.0), min(x + width / 2, 1.0)
    top, bottom = max(y - height / 2, 0.0), min(y + height / 2, 1.0)
    shape = [round(value, _DECIMALS) for value in ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)]
    if width <= 0 or height <= 0 or shape[2] <= 0 or shape[3] <= 0:
        return "has no area within the picture; remove it"
    return Row(number, *shape)


def remarks(class_names: Sequence[str], counts: Sequence[int]) -> Iterator[str]:
    """Yield in whole sentences what is odd of a training split with so many objects of each class.

    Raises ValueError where it has none at all.
    """
    missing = [name for name, count in zip(class_names, counts) if not count]
    present = [count for count in counts if count]
    if not present:
        raise ValueError("no training picture has an object; check that label files stand beside the pictures")
    if missing:
        yield f"No training picture shows {', '.join(missing)}; networks will not find them."
    if max(present) > 10 * min(present):
        yield f"Classes have between {min(present)} and {max(present)} training objects; rare ones weigh more."
