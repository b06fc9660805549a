"""Read and check a detection data set in YOLO's format before any of it is used.

ultralytics leaves pictures out whose labels it does not like, treats a missing label file as "no objects" and rewrites
some JPEG files. Here each flaw is either harmless and noted, or refused by file and line with what to do about it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from milonga import yolo
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

_MOST_NAMED = 10


class FlawedData(ValueError):
    """A data set cannot be used as it is; the message names what to change, a line for each flaw."""


@dataclass(frozen=True)
class Picture:
    """One picture with its objects: classes (n,) and boxes (n, 4) as centre x, y, width, height from 0 to 1."""

    path: Path
    classes: NDArray[np.float32]
    boxes: NDArray[np.float32]
    #: The version of the data set that brought it.
    added_in: int = 1
    #: Of its content, where a hub wrote the data set.
    digest: str = ""


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


def read(path: str | Path, checked: bool = False) -> Detections:
    """Return the data set of a data.yaml file. Raises FlawedData naming up to ten flaws by file and line.

    Pictures that were `checked` before are not opened. added.json beside the file, if any, has the version of the data set
    that brought each picture, by its name without ending.
    """
    path = Path(path)
    described = _described(path)
    names = _names(described, path)
    notes: list[str] = []
    flaws: list[str] = []
    train, val = (_split(described, split, path, len(names), flaws, notes, checked) for split in ("train", "val"))
    if flaws:
        more = f"\nand {len(flaws) - _MOST_NAMED} more" if len(flaws) > _MOST_NAMED else ""
        raise FlawedData("\n".join(flaws[:_MOST_NAMED]) + more)
    added = _added(path)
    train, val = (tuple(_known(one, added) for one in some) for some in (train, val))
    found = Detections(names, train, val, ())
    return replace(found, notes=(*notes, *_remarks(found)))


def _known(picture: Picture, added: Mapping[str, int]) -> Picture:
    name = picture.path.stem
    return replace(picture, added_in=added[name], digest=name) if name in added else picture


def _added(path: Path) -> dict[str, int]:
    beside = path.parent / "added.json"
    return json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}


def _described(path: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FlawedData(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(found, dict):
        raise FlawedData(f"{path}: must have the keys train, val and names")
    return found


def _names(described: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    try:
        return yolo.names(described)
    except ValueError as error:
        raise FlawedData(f"{path}: {error}") from error


def _split(
    described: Mapping[str, Any],
    split: str,
    path: Path,
    classes: int,
    flaws: list[str],
    notes: list[str],
    checked: bool,
) -> tuple[Picture, ...]:
    files = list(_files(described, split, path))
    if not files:
        raise FlawedData(f"{path}: there is no picture in {split}: {described.get(split)!r}; allowed are {_allowed()}")
    without = [file for file in files if not yolo.labels_of(file).is_file()]
    if len(without) == len(files):
        raise FlawedData(
            f"{path}: no picture in {split} has a label file; that of {files[0]} would be {yolo.labels_of(files[0])}"
        )
    if without:
        notes.append(
            f"{len(without)} of {len(files)} pictures in {split} have no label file, the first of them {without[0]};"
            " they count as pictures without objects."
        )
    found = []
    for file in files:
        flaw = None if checked else _picture_flaw(file)
        if flaw:
            flaws.append(flaw)
        found.append(_picture(file, classes, flaws))
    return tuple(found)


def _files(described: Mapping[str, Any], split: str, path: Path) -> Iterator[Path]:
    if not described.get(split):
        raise FlawedData(f"{path}: {split} is missing; name the folder of its pictures")
    for places in yolo.places(described, split):
        found = [path.parent / one for one in places]
        place = next((one for one in found if one.exists()), found[0])
        if place.is_dir():
            yield from sorted(file for file in place.rglob("*") if file.suffix.lower() in yolo.ENDINGS)
        elif place.is_file():
            lines = place.read_text(encoding="utf-8-sig").splitlines()
            yield from (place.parent / line.strip() for line in lines if line.strip())
        else:
            raise FlawedData(f"{path}: {split} names {place}, which does not exist")


def _allowed() -> str:
    return ", ".join(sorted(yolo.ENDINGS))


def _picture_flaw(file: Path) -> str | None:
    try:
        with Image.open(file) as picture:
            picture.load()
            width, height = picture.size
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        return f"{file}: cannot be read as a picture ({error}); replace it or remove it with its label file"
    if min(width, height) < yolo.SMALLEST_PX:
        return f"{file}: is {width} by {height} pixels; remove it, {yolo.SMALLEST_PX} are the fewest"
    return None


def _picture(file: Path, classes: int, flaws: list[str]) -> Picture:
    rows: list[yolo.Row] = []
    labels = yolo.labels_of(file)
    if labels.is_file():
        try:
            rows, wrong = yolo.rows(labels.read_text(encoding="utf-8-sig"), classes)
            flaws += [f"{labels}:{flaw.line}: {flaw.reason}" for flaw in wrong]
        except UnicodeDecodeError:
            flaws.append(f"{labels}: is not text; write one line an object: class x y width height")
    table = np.array(rows, dtype=np.float32).reshape(-1, 5)
    return Picture(file, table[:, 0], table[:, 1:])


def _remarks(found: Detections) -> list[str]:
    try:
        return list(yolo.remarks(found.names, found.counts))
    except ValueError as error:
        raise FlawedData(str(error)) from error
