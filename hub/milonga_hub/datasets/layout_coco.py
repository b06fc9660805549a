"""COCO's layout: JSON files that list pictures, classes and boxes, and the pictures in any folder of the archive."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from milonga import yolo

from milonga_hub.blobs import Sink
from milonga_hub.datasets.annotated import Annotated, label
from milonga_hub.datasets.archive import Archive, Member
from milonga_hub.datasets.coco_file import CocoAnnotation, CocoFile, looks_like_one, parse, used_categories
from milonga_hub.datasets.parts import Pictures, part_of
from milonga_hub.datasets.reading import Kept, Read, told
from milonga_hub.datasets.rules_pixels import PixelBox
from milonga_hub.datasets.values import Layout
from milonga_hub.errors import InvalidInput
from milonga_hub.tasks import Task

# More are one for each picture, as other tools write them.
_MOST_FILES = 64
# COCO's own train2017 has 0.45 GB for 860,000 boxes with outlines; a box is kept as some 500 bytes while pictures are read.
MAX_FILE_BYTES = 2 << 30
_SILENT = (".json", ".txt", ".md", ".html", ".yaml", ".yml")


def annotation_files(archive: Archive) -> dict[str, CocoFile]:
    """Return the annotation files with boxes by their paths, none where the archive has another layout.

    Raises InvalidInput for one that cannot be understood.
    """
    written = sorted(name for name in archive.names if PurePosixPath(name).suffix.lower() == ".json")
    if len(written) > _MOST_FILES:
        return {}
    found = {}
    for name in written:
        try:
            with archive.stream(name, MAX_FILE_BYTES) as file:
                found[name] = parse(name, file)
        except InvalidInput:
            # Of JSON that is for something else, nothing is asked. Looking second, large files are unpacked once.
            with archive.stream(name, MAX_FILE_BYTES) as file:
                if looks_like_one(file):
                    raise
    archive.were_read.update(found)
    return {name: file for name, file in found.items() if not _repeats(name, found)}


def _repeats(name: str, found: Mapping[str, CocoFile]) -> bool:
    """Whether COCO's own instances_*.json beside the file has its boxes, and those of more classes."""
    path = PurePosixPath(name)
    beside = (PurePosixPath(other) for other in found)
    return path.name.startswith("person_keypoints_") and any(
        other.parent == path.parent and other.name.startswith("instances_") for other in beside
    )


def read(archive: Archive, files: Mapping[str, CocoFile], members: Iterator[Member], blobs: Sink) -> Read:
    """Keep the pictures that the files list. Raises InvalidInput where none of them is there."""
    groups: set[str] = set()
    classes: dict[str, None] = {}
    for file in files.values():
        named, grouping = used_categories(file)
        classes.update((one.name, None) for one in named)
        groups.update(grouping)
    found = Read(Task.DETECTION, tuple(classes), layout=Layout.COCO)
    if grouping := sorted(groups - classes.keys()):
        found.notes.append(f"{', '.join(grouping)} only groups other classes and was left out.")
    pictures = Pictures(name for name in archive.names if _is_picture(name))
    annotated: dict[str, Annotated] = defaultdict(Annotated)
    for path, file in files.items():
        _File(path, file, pictures, annotated, found).read()
    if not annotated:
        first, file = next(iter(files.items()))
        raise InvalidInput(
            f"none of the {len(file.images)} pictures that {first} lists is in the archive; send them together with it"
        )
    label(found, _kept(found, annotated, members, blobs), annotated)
    return found


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in yolo.ENDINGS


def _kept(found: Read, annotated: Mapping[str, Annotated], members: Iterator[Member], blobs: Sink) -> dict[str, Kept]:
    kept = {}
    for member in members:
        if member.path in annotated:
            if picture := found.keep(member, blobs, yolo.SMALLEST_PX):
                kept[member.path] = picture
        elif _is_picture(member.path):
            found.reject(member.path, "belongs to no entry of an annotation file")
        elif PurePosixPath(member.path).suffix.lower() not in _SILENT:
            found.reject(member.path, "is neither a picture nor an annotation file")
    return kept


class _File:
    """One annotation file, whose pictures, boxes and flaws are added to those of the others."""

    def __init__(
        self, path: str, file: CocoFile, pictures: Pictures, annotated: dict[str, Annotated], found: Read
    ) -> None:
        self._path = path
        self._file = file
        self._pictures = pictures
        self._annotated = annotated
        self._found = found
        self._names = {one.id: one.name for one in file.categories}

    def read(self) -> None:
        of_images = self._images()
        listed = {one.id for one in self._file.images}
        crowds, unknown = 0, []
        for annotation in self._file.annotations:
            if annotation.image_id not in listed:
                unknown.append(f"annotation {annotation.id} is of image {annotation.image_id}, which is not listed")
            elif annotation.iscrowd:
                crowds += 1
            elif (picture := of_images.get(annotation.image_id)) is not None:
                self._add(picture, annotation)
        if unknown:
            self._found.reject(self._path, told(unknown, "annotations of images that are not listed"))
        if crowds:
            self._found.notes.append(
                f"{crowds} annotations of crowds (iscrowd) in {self._path} were left out: they mark no single objects."
            )
        ids = Counter(one.id for one in self._file.annotations if one.id is not None)
        if twice := [one for one, count in ids.items() if count > 1]:
            self._found.notes.append(
                f"{len(twice)} ids of annotations in {self._path} stand more than once, {twice[0]} among them; all of"
                " these annotations were read."
            )

    def _images(self) -> dict[int | str, Annotated]:
        """Return the pictures of the archive by the ids that the file gives them, and note what cannot be found."""
        of_images: dict[int | str, Annotated] = {}
        missing, unclear = [], []
        names = defaultdict(set)
        for image in self._file.images:
            names[image.id].add(image.file_name)
        for image in self._file.images:
            paths = self._pictures.find(image.file_name, self._path)
            if len(paths) != 1:
                missing.extend([image.file_name] if not paths else [])
                unclear.extend([f"{image.file_name} may be any of {', '.join(paths[:3])}"] if paths else [])
                continue
            one = of_images[image.id] = self._annotated[paths[0]]
            one.file, one.said_px = self._path, (image.width or 0, image.height or 0)
            one.parts.update(filter(None, [part_of(self._path)]))
            if len(names[image.id]) > 1:
                others = ", ".join(sorted(names[image.id] - {image.file_name})[:3])
                one.flaws.append(f"{self._path}: image id {image.id} stands for {others} too; give each its own")
        if missing:
            self._found.reject(self._path, f"lists pictures that are not there: {told(missing, 'pictures')}")
        if unclear:
            self._found.reject(self._path, told(unclear, "of this kind"))
        return of_images

    def _add(self, picture: Annotated, annotation: CocoAnnotation) -> None:
        name = f"annotation {annotation.id}"
        category = self._names.get(annotation.category_id)
        box = _numbers(annotation.bbox)
        if category is None:
            picture.flaws.append(f"{self._path}: {name} is of category {annotation.category_id}, which is not listed")
        elif len(box) != 4:
            picture.flaws.append(f"{self._path}: {name} has no bbox; write [x, y, width, height] in pixels")
        else:
            left, top, width, height = box
            picture.objects.append(PixelBox(category, left, top, left + width, top + height, name))


def _numbers(value: Any) -> list[float]:
    """Return a list of numbers as it stands; nothing for anything else."""
    if not isinstance(value, list) or not all(type(one) in (int, float) for one in value):
        return []
    try:
        return [float(one) for one in value]
    except OverflowError:
        return []
