"""YOLO's layout: a data.yaml that names classes and splits, pictures, and a label file for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import yaml
from milonga import yolo

from milonga_hub.blobs import Sink
from milonga_hub.datasets.archive import Archive, Member
from milonga_hub.datasets.reading import Kept, Read, told
from milonga_hub.datasets.rules import Box, Labelled
from milonga_hub.datasets.values import Layout
from milonga_hub.datasets.yolo_splits import splits
from milonga_hub.errors import InvalidInput
from milonga_hub.tasks import Task

_YAML = (".yaml", ".yml")
_SILENT = (*_YAML, ".cache", ".md")
# A line of a label file is some 40 bytes; nobody marks a hundred thousand objects in one picture.
_MOST_LABEL_BYTES = 4 << 20


def is_label(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".txt" and "labels" in path.parts[:-1]


def description(archive: Archive) -> tuple[str, dict[str, Any]] | None:
    """Return path and content of the file that describes a data set in YOLO's layout, None where there is none.

    Raises InvalidInput for one that cannot be read.
    """
    labels = any(is_label(name) for name in archive.names)
    written = [name for name in archive.names if PurePosixPath(name).suffix in _YAML]
    for name in sorted(written, key=lambda name: (name.count("/"), name)):
        named_so = PurePosixPath(name).stem == "data"
        # Beside pictures in class folders, other files that happen to be YAML are only left out.
        if not labels and not named_so:
            continue
        try:
            described = yaml.safe_load(archive.read(name))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InvalidInput(f"{name} cannot be read as YAML: {error}") from error
        if isinstance(described, dict) and (named_so or "names" in described):
            return name, described
    return None


def read(archive: Archive, yaml_path: str, described: dict[str, Any], files: Iterator[Member], blobs: Sink) -> Read:
    try:
        found = Read(Task.DETECTION, yolo.names(described), layout=Layout.YOLO)
    except ValueError as error:
        raise InvalidInput(f"{yaml_path}: {error}") from error
    pictures: dict[str, Kept | None] = {}
    texts: dict[str, bytes] = {}
    for member in files:
        suffix = PurePosixPath(member.path).suffix.lower()
        if suffix in yolo.ENDINGS:
            pictures[member.path] = found.keep(member, blobs, yolo.SMALLEST_PX)
        elif suffix == ".txt":
            texts[member.path] = member.data
        elif suffix not in _SILENT:
            found.reject(member.path, "is neither a picture nor its label file")
    kept = {path: picture for path, picture in pictures.items() if picture}
    _note_missing(found, kept, texts)
    chosen = splits(yaml_path, described, list(pictures), texts, found.notes)
    for path, picture in kept.items():
        if chosen and path not in chosen:
            found.reject(path, f"is in neither train nor val of {yaml_path}")
            continue
        boxes = _boxes(path, texts, found)
        if boxes is not None:
            found.labelled.append(Labelled(picture.digest, "", path, boxes, chosen.get(path, "")))
    return found


def _labels_of(path: str) -> str:
    return str(yolo.labels_of(PurePosixPath(path)))


def _note_missing(found: Read, kept: dict[str, Kept], texts: dict[str, bytes]) -> None:
    """Note pictures without label files. Raises InvalidInput where none has one."""
    without = [path for path in kept if _labels_of(path) not in texts]
    if kept and len(without) == len(kept):
        raise InvalidInput(f"no picture has a label file; that of {without[0]} would be {_labels_of(without[0])}")
    if without:
        found.notes.append(
            f"{len(without)} of {len(kept)} pictures have no label file, the first of them {without[0]}; they count as"
            " pictures without objects."
        )


def _boxes(path: str, texts: dict[str, bytes], found: Read) -> tuple[Box, ...] | None:
    """Return the boxes of a picture, in an order of their own; None, with the reason noted, where a line is flawed."""
    labels = _labels_of(path)
    text = texts.get(labels, b"")
    if len(text) > _MOST_LABEL_BYTES:
        found.reject(path, f"{labels} has {len(text):,} bytes; {_MOST_LABEL_BYTES:,} are the most")
        return None
    try:
        rows, flaws = yolo.rows(text.decode("utf-8-sig"), len(found.classes))
    except UnicodeDecodeError:
        found.reject(path, f"{labels} is not text; write one line an object: class x y width height")
        return None
    if flaws:
        found.reject(path, told([f"{labels}:{flaw.line}: {flaw.reason}" for flaw in flaws], "lines"))
        return None
    return tuple(sorted(Box(found.classes[row.number], row.x, row.y, row.width, row.height) for row in rows))
