"""Read and check a detection data set in YOLO's format before any of it is used.

ultralytics leaves pictures out whose labels it does not like, treats a missing label file as "no objects" and rewrites
some JPEG files. Here each flaw is either harmless and noted, or refused by file and line with what to do about it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

_ENDINGS = {".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}
# Beyond this, a coordinate is no rounding error (ultralytics.data.utils.verify_image_label has the same).
_MOST_BEYOND = 0.01
# ultralytics takes no smaller ones.
_SMALLEST_PX = 10
_MOST_NAMED = 10


class FlawedData(ValueError):
    """A data set cannot be used as it is; the message names what to change, a line for each flaw."""


@dataclass(frozen=True)
class Picture:
    """One picture with its objects: classes (n,) and boxes (n, 4) as centre x, y, width, height from 0 to 1."""

    path: Path
    classes: NDArray[np.float32]
    boxes: NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """A checked data set. `notes` say in whole sentences what is odd but harmless."""

    names: tuple[str, ...]
    train: tuple[Picture, ...]
    val: tuple[Picture, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> list[int]:
        """Return the number of training objects of each class."""
        found = Counter(int(one) for picture in self.train for one in picture.classes)
        return [found[index] for index in range(len(self.names))]


def read(path: str | Path) -> Detections:
    """Return the data set of a data.yaml file. Raises FlawedData naming up to ten flaws by file and line."""
    path = Path(path)
    described = _described(path)
    names = _names(described, path)
    notes: list[str] = []
    flaws: list[str] = []
    train, val = (_split(described, split, path, len(names), flaws, notes) for split in ("train", "val"))
    if flaws:
        more = f"\nand {len(flaws) - _MOST_NAMED} more" if len(flaws) > _MOST_NAMED else ""
        raise FlawedData("\n".join(flaws[:_MOST_NAMED]) + more)
    found = Detections(names, train, val, ())
    return Detections(names, train, val, (*notes, *_remarks(found)))


def _described(path: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FlawedData(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(found, dict):
        raise FlawedData(f"{path}: must have the keys train, val and names")
    return found


def _names(described: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    given = described.get("names")
    if isinstance(given, dict):
        if sorted(given) != list(range(len(given))):
            raise FlawedData(f"{path}: names must be numbered from 0 without gaps, not {sorted(given, key=str)}")
        given = [given[index] for index in range(len(given))]
    if not isinstance(given, list) or not given:
        raise FlawedData(f"{path}: names is missing; list the classes, for instance: names: [bolt, nut]")
    return tuple(str(one) for one in given)


def _split(
    described: Mapping[str, Any], split: str, path: Path, classes: int, flaws: list[str], notes: list[str]
) -> tuple[Picture, ...]:
    files = list(_files(described, split, path))
    if not files:
        raise FlawedData(f"{path}: there is no picture in {split}: {described.get(split)!r}; allowed are {_allowed()}")
    without = [file for file in files if not _labels_of(file).is_file()]
    if len(without) == len(files):
        raise FlawedData(
            f"{path}: no picture in {split} has a label file; that of {files[0]} would be {_labels_of(files[0])}"
        )
    if without:
        notes.append(
            f"{len(without)} of {len(files)} pictures in {split} have no label file, the first of them {without[0]};"
            " they count as pictures without objects."
        )
    found = []
    for file in files:
        flaw = _picture_flaw(file)
        if flaw:
            flaws.append(flaw)
        found.append(_picture(file, classes, flaws))
    return tuple(found)


def _files(described: Mapping[str, Any], split: str, path: Path) -> Iterator[Path]:
    # Where another machine's folder is named, pictures mostly lie beside the file.
    roots = [path.parent / str(described.get("path") or "."), path.parent]
    given = described.get(split)
    if not given:
        raise FlawedData(f"{path}: {split} is missing; name the folder of its pictures")
    for one in given if isinstance(given, list) else [given]:
        places = [root / str(one) for root in roots]
        place = next((place for place in places if place.exists()), places[0])
        if place.is_dir():
            yield from sorted(file for file in place.rglob("*") if file.suffix.lower() in _ENDINGS)
        elif place.is_file():
            lines = place.read_text(encoding="utf-8-sig").splitlines()
            yield from (place.parent / line.strip() for line in lines if line.strip())
        else:
            raise FlawedData(f"{path}: {split} names {place}, which does not exist")


def _allowed() -> str:
    return ", ".join(sorted(_ENDINGS))


def _labels_of(file: Path) -> Path:
    """Return the label file of a picture: the last folder named "images" becomes "labels", as ultralytics has it."""
    parts = list(file.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _picture_flaw(file: Path) -> str | None:
    try:
        with Image.open(file) as picture:
            picture.load()
            width, height = picture.size
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        return f"{file}: cannot be read as a picture ({error}); replace it or remove it with its label file"
    if min(width, height) < _SMALLEST_PX:
        return f"{file}: is {width} by {height} pixels; remove it, {_SMALLEST_PX} are the fewest"
    return None


def _picture(file: Path, classes: int, flaws: list[str]) -> Picture:
    rows = []
    labels = _labels_of(file)
    if labels.is_file():
        try:
            lines = labels.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            flaws.append(f"{labels}: is not text; write one line an object: class x y width height")
            lines = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                found = _row(line.split(), classes)
                if isinstance(found, str):
                    flaws.append(f"{labels}:{number}: {found}")
                else:
                    rows.append(found)
    # The same object twice would count twice.
    table = np.array(list(dict.fromkeys(rows)), dtype=np.float32).reshape(-1, 5)
    return Picture(file, table[:, 0], table[:, 1:])


def _row(words: list[str], classes: int) -> tuple[float, ...] | str:
    """Return class, x, y, width and height of one line, or what is wrong with it. Polygons become their boxes."""
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
    if max(shape) > 1 + _MOST_BEYOND or min(shape) < -_MOST_BEYOND:
        return "lies outside of the picture; coordinates are shares of its width and height, from 0 to 1, not pixels"
    if len(shape) > 4:
        xs, ys = shape[0::2], shape[1::2]
        shape = [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]
    return _within(number, *shape)


def _within(number: float, x: float, y: float, width: float, height: float) -> tuple[float, ...] | str:
    """Cut what juts out of the picture off the box."""
    left, right = max(x - width / 2, 0.0), min(x + width / 2, 1.0)
    top, bottom = max(y - height / 2, 0.0), min(y + height / 2, 1.0)
    if width <= 0 or height <= 0 or right <= left or bottom <= top:
        return "has no area within the picture; remove the line"
    return (number, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)


def _remarks(found: Detections) -> Iterator[str]:
    counts = found.counts
    missing = [name for name, count in zip(found.names, counts, strict=True) if not count]
    if missing:
        yield f"No training picture shows {', '.join(missing)}; networks will not find them."
    present = [count for count in counts if count]
    if not present:
        raise FlawedData("no training picture has an object; check that label files stand beside the pictures")
    if max(present) > 10 * min(present):
        yield f"Classes have between {min(present)} and {max(present)} training objects; rare ones weigh more."
