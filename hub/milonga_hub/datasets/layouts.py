"""The two layouts of a data set in an archive: a folder for each class, and YOLO's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml
from milonga import pictures, yolo

from milonga_hub.blobs import BlobStore
from milonga_hub.datasets.archive import Archive, Member
from milonga_hub.datasets.models import RejectedFile
from milonga_hub.datasets.rules import Box, Labelled
from milonga_hub.datasets.yolo_splits import splits
from milonga_hub.errors import InvalidInput
from milonga_hub.tasks import Task

OnProgress = Callable[[int, int], None]

_YAML = (".yaml", ".yml")
_SILENT = (*_YAML, ".cache", ".md")
# A line of a label file is some 40 bytes; nobody marks a hundred thousand objects in one picture.
_MOST_LABEL_BYTES = 4 << 20
_NAMED_FLAWS = 3


@dataclass(frozen=True)
class Read:
    """What an archive held: pictures now kept as blobs, files that are none, and the names of all classes."""

    task: Task
    #: For class folders in no order; for detection as data.yaml numbers them.
    classes: tuple[str, ...]
    labelled: list[Labelled] = field(default_factory=list)
    rejected: list[RejectedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def reject(self, path: str, reason: str) -> None:
        self.rejected.append(RejectedFile(path=path, reason=reason))

    def keep(self, member: Member, blobs: BlobStore, smallest_px: int = 1) -> str:
        """Keep a picture and return its digest; empty for one that cannot be used."""
        try:
            image = pictures.decode(member.data)
        except pictures.PictureError as error:
            self.reject(member.path, str(error))
            return ""
        if min(image.size) < smallest_px:
            self.reject(member.path, f"is {image.width} by {image.height} pixels; {smallest_px} are the fewest")
            return ""
        return blobs.put(member.data)


def read(archive: Archive, blobs: BlobStore, on_progress: OnProgress | None) -> Read:
    """Keep the archive's pictures and return what they show. Raises InvalidInput where it has no layout of these."""
    described = _description(archive)
    files = _telling(archive, on_progress)
    if described is not None:
        return _of_yolo(archive, *described, files, blobs)
    if any(_is_label(name) for name in archive.names):
        raise InvalidInput(
            "there are label files in a folder named labels, but no data.yaml that names the classes; add one, for"
            " instance: names: [bolt, nut]"
        )
    return _of_class_folders(archive, files, blobs)


def _telling(archive: Archive, on_progress: OnProgress | None) -> Iterator[Member]:
    for number, member in enumerate(archive.files(), start=1):
        yield member
        if on_progress is not None:
            on_progress(number, archive.contents.file_count)


def _of_class_folders(archive: Archive, files: Iterator[Member], blobs: BlobStore) -> Read:
    found = Read(Task.CLASSIFICATION, tuple(archive.contents.classes))
    for member in files:
        label = member.label
        digest = found.keep(member, blobs)
        if digest:
            found.labelled.append(Labelled(digest, label, member.path))
    return found


def _is_label(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".txt" and "labels" in path.parts[:-1]


def _description(archive: Archive) -> tuple[str, dict[str, Any]] | None:
    """Return path and content of the file that describes a data set in YOLO's layout, None where there is none.

    Raises InvalidInput for one that cannot be read.
    """
    labels = any(_is_label(name) for name in archive.names)
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


def _of_yolo(
    archive: Archive, yaml_path: str, described: dict[str, Any], files: Iterator[Member], blobs: BlobStore
) -> Read:
    try:
        found = Read(Task.DETECTION, yolo.names(described))
    except ValueError as error:
        raise InvalidInput(f"{yaml_path}: {error}") from error
    digests: dict[str, str] = {}
    texts: dict[str, bytes] = {}
    for member in files:
        suffix = PurePosixPath(member.path).suffix.lower()
        if suffix in yolo.ENDINGS:
            digests[member.path] = found.keep(member, blobs, yolo.SMALLEST_PX)
        elif suffix == ".txt":
            texts[member.path] = member.data
        elif suffix not in _SILENT:
            found.reject(member.path, "is neither a picture nor its label file")
    kept = {path: digest for path, digest in digests.items() if digest}
    _note_missing(found, kept, texts)
    chosen = splits(yaml_path, described, list(digests), texts, found.notes)
    for path, digest in kept.items():
        if chosen and path not in chosen:
            found.reject(path, f"is in neither train nor val of {yaml_path}")
            continue
        boxes = _boxes(path, texts, found)
        if boxes is not None:
            found.labelled.append(Labelled(digest, "", path, boxes, chosen.get(path, "")))
    return found


def _labels_of(path: str) -> str:
    return str(yolo.labels_of(PurePosixPath(path)))


def _note_missing(found: Read, kept: dict[str, str], texts: dict[str, bytes]) -> None:
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
        told = "; ".join(f"{labels}:{flaw.line}: {flaw.reason}" for flaw in flaws[:_NAMED_FLAWS])
        more = f"; and {len(flaws) - _NAMED_FLAWS} more lines" if len(flaws) > _NAMED_FLAWS else ""
        found.reject(path, told + more)
        return None
    return tuple(sorted(Box(found.classes[row.number], row.x, row.y, row.width, row.height) for row in rows))
