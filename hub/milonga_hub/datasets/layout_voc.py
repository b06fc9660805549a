"""Pascal VOC's layout: an XML file for each picture, and lists of splits in ImageSets/Main.

The format is that of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html; tools that export it mostly lay
the XML files beside the pictures, in folders named like the splits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from milonga import yolo

from milonga_hub.blobs import Sink
from milonga_hub.datasets.annotated import Annotated, label
from milonga_hub.datasets.archive import Archive, Member
from milonga_hub.datasets.parts import TEST, Pictures, part_of
from milonga_hub.datasets.reading import Kept, Read, told
from milonga_hub.datasets.rules import TRAIN, VALIDATION, natural
from milonga_hub.datasets.values import Layout
from milonga_hub.datasets.voc_file import VocFile, looks_like_one, parse
from milonga_hub.errors import InvalidInput
from milonga_hub.tasks import Task

# A class has lists of its own in the same folder, bird_train.txt: those say nothing more.
_LISTS = {"train": TRAIN, "val": VALIDATION, "trainval": TRAIN, "test": TEST}
# One class a line, in the order that numbers them; the challenge itself has no such file.
_CLASSES = "classes.txt"
# Masks, named like the pictures that they belong to.
_MASKS = "Segmentation"
_SILENT = (".txt", ".md", ".html", ".mat")
# So many XML files are looked at to tell the layout.
_LOOKED_AT = 5


def is_one(archive: Archive) -> bool:
    """Whether XML files of the archive are annotations."""
    written = sorted(name for name in archive.names if PurePosixPath(name).suffix.lower() == ".xml")
    return any(looks_like_one(archive.read(name)) for name in written[:_LOOKED_AT])


def read(members: Iterator[Member], blobs: Sink) -> Read:
    """Keep the pictures. Raises InvalidInput where no annotation belongs to any."""
    found = Read(Task.DETECTION, (), layout=Layout.VOC)
    kept, files, lists, classes = _gathered(found, members, blobs)
    annotated = _annotated(found, kept, files, _parts(lists))
    if files and not annotated:
        raise InvalidInput(f"no picture belongs to {next(iter(files))}; send the pictures together with the XML files")
    for path in sorted(kept.keys() - annotated.keys()):
        found.reject(path, "has no XML file that can be used; write one without objects where it shows none")
    difficult = sum(file.difficult for file in files.values())
    if difficult:
        found.notes.append(f"{difficult} objects marked difficult were left out, as Pascal VOC does not count them.")
    label(found, kept, annotated)
    shown = natural({box.label for one in found.labelled for box in one.boxes})
    return dataclasses.replace(found, classes=tuple(dict.fromkeys([*classes, *shown])))


def _gathered(
    found: Read, members: Iterator[Member], blobs: Sink
) -> tuple[dict[str, Kept], dict[str, VocFile], dict[str, bytes], list[str]]:
    """Return pictures, annotations and lists of splits, each by their paths, and the classes that a file of them names."""
    kept, files, lists = {}, {}, {}
    classes: list[str] = []
    for member in members:
        path = PurePosixPath(member.path)
        suffix = path.suffix.lower()
        if path.parent.name.startswith(_MASKS):
            continue
        if suffix in yolo.ENDINGS:
            if picture := found.keep(member, blobs, yolo.SMALLEST_PX):
                kept[member.path] = picture
        elif suffix == ".xml":
            try:
                files[member.path] = parse(member.data)
            except ValueError as error:
                found.reject(member.path, str(error))
        elif path.parent.parts[-2:] == ("ImageSets", "Main") and path.stem in _LISTS:
            lists[member.path] = member.data
        elif path.name == _CLASSES:
            classes += [line.strip() for line in member.data.decode("utf-8-sig", "replace").split("\n") if line.strip()]
        elif suffix not in _SILENT:
            found.reject(member.path, "is neither a picture nor an annotation file")
    return kept, files, lists, classes


def _annotated(
    found: Read, kept: Mapping[str, Kept], files: Mapping[str, VocFile], parts: Mapping[str, set[str]] | None
) -> dict[str, Annotated]:
    pictures = Pictures(kept)
    stems = Pictures(str(PurePosixPath(path).with_suffix("")) for path in kept)
    of_stems = {str(PurePosixPath(path).with_suffix("")): path for path in kept}
    annotated: dict[str, Annotated] = {}
    for path, file in files.items():
        stem = PurePosixPath(path).stem
        # A picture that was renamed together with its annotation keeps the old name inside of it.
        there = pictures.find(file.filename, path) or [of_stems[one] for one in stems.find(stem, path)]
        if len(there) != 1:
            found.reject(
                path, f"may be of any of {', '.join(there[:3])}" if there else "has no picture that can be used"
            )
        elif there[0] in annotated:
            found.reject(path, f"is of {there[0]}, as {annotated[there[0]].file} is; remove one of them")
        else:
            named = part_of(str(PurePosixPath(path).parent)) if parts is None else ""
            annotated[there[0]] = Annotated(
                path,
                file.size_px,
                list(file.objects),
                set(filter(None, [named]))
                if parts is None
                else parts.get(str(PurePosixPath(path).with_suffix("")), set()),
                [told([f"{path}: {flaw}" for flaw in file.flaws], "objects")] if file.flaws else [],
            )
    return annotated


def _parts(lists: Mapping[str, bytes]) -> dict[str, set[str]] | None:
    """Return the splits that each annotation, by its path without ending, is listed in; None without lists."""
    if not lists:
        return None
    found: dict[str, set[str]] = {}
    stems = {PurePosixPath(path).stem for path in lists}
    for path, text in lists.items():
        if PurePosixPath(path).stem == "trainval" and "train" in stems:
            continue
        root = PurePosixPath(path).parents[2] / "Annotations"
        part = _LISTS[PurePosixPath(path).stem]
        for line in text.decode("utf-8-sig", "replace").splitlines():
            if words := line.split():
                found.setdefault(str(root / words[0]), set()).add(part)
    return found
