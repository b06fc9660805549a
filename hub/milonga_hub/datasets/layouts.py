"""Which layout the data set in an archive has: COCO's, Pascal VOC's, YOLO's, or a folder for each class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from milonga_hub.blobs import Sink
from milonga_hub.datasets import layout_coco, layout_voc, layout_yolo
from milonga_hub.datasets.archive import Archive, Member
from milonga_hub.datasets.parts import part_of, splits
from milonga_hub.datasets.reading import OnProgress, Read, telling
from milonga_hub.datasets.rules import Labelled
from milonga_hub.datasets.values import Layout
from milonga_hub.errors import InvalidInput
from milonga_hub.tasks import Task


def read(archive: Archive, blobs: Sink, on_progress: OnProgress | None) -> Read:
    """Keep the archive's pictures and return what they show. Raises InvalidInput where it has no layout of these."""
    files = telling(archive, on_progress)
    if (described := layout_yolo.description(archive)) is not None:
        return layout_yolo.read(archive, *described, files, blobs)
    if annotations := layout_coco.annotation_files(archive):
        return layout_coco.read(archive, annotations, files, blobs)
    if layout_voc.is_one(archive):
        return layout_voc.read(files, blobs)
    if any(layout_yolo.is_label(name) for name in archive.names):
        raise InvalidInput(
            "there are label files in a folder named labels, but no data.yaml that names the classes; add one, for"
            " instance: names: [bolt, nut]"
        )
    return _of_class_folders(archive, files, blobs)


def _of_class_folders(archive: Archive, files: Iterator[Member], blobs: Sink) -> Read:
    found = Read(Task.CLASSIFICATION, tuple(archive.contents.classes), layout=Layout.CLASS_FOLDERS)
    sent = []
    for member in files:
        label = member.label
        picture = found.keep(member, blobs)
        if picture is not None:
            sent.append(Labelled(picture.digest, label, member.path))
    # train/bolt/1.png and val/bolt/2.png, as torchvision and ultralytics have it: the folder above that of the class.
    above = {one.path: part_of(str(PurePosixPath(one.path).parents[1])) for one in sent}
    chosen = splits({path: [part] if part else [] for path, part in above.items()})
    found.notes.extend(chosen.notes)
    found.labelled.extend(
        replace(one, split=chosen.chosen.get(one.path, "")) for one in sent if one.path not in chosen.left_out
    )
    return found
