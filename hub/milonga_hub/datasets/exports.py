"""Write a version of a data set as a zip file, in a layout that other tools know and that comes back as the same version."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import yaml
from PIL import Image

from milonga_hub.blobs import Blobs
from milonga_hub.datasets.models import DatasetVersion
from milonga_hub.datasets.rules import Sample
from milonga_hub.datasets.rules_exports import check, edges, folder_of, stem_of
from milonga_hub.datasets.values import Layout
from milonga_hub.zipping import zipped

# The EXIF tag by which cameras say how they were held; from 5 on the picture lies on its side.
_ORIENTATION, _FIRST_ON_ITS_SIDE = 0x0112, 5
_ENDINGS = {"BMP": "bmp", "JPEG": "jpg", "PNG": "png", "TIFF": "tif", "WEBP": "webp"}
_SPLITS = ("train", "val")

Files = Iterator[tuple[str, bytes | Iterable[bytes]]]


@dataclass(frozen=True)
class Picture:
    """One picture as it is written."""

    sample: Sample
    name: str
    data: bytes
    # Upright, as boxes are meant.
    width: int
    height: int

    @property
    def folder(self) -> str:
        return folder_of(self.sample)


@dataclass(frozen=True)
class Piece:
    """Some bytes of the file, and how many of the pictures are in what was sent."""

    data: bytes
    written_count: int


class Export:
    """One version on its way out. Raises FailedPrecondition where the layout cannot hold it."""

    def __init__(self, version: DatasetVersion, samples: Sequence[Sample], layout: Layout, blobs: Blobs) -> None:
        check(version.task, layout, version.classes)
        self.layout = layout
        self.count = len(samples)
        self.file_name = f"{version.dataset}-v{version.number}-{layout.lower().replace('_', '-')}.zip"
        self._classes = version.classes
        self._samples = samples
        self._blobs = blobs
        self._written = 0

    def pieces(self) -> Iterator[Piece]:
        """Yield the zip file; one picture at a time is in memory."""
        write = {
            Layout.CLASS_FOLDERS: self._class_folders,
            Layout.YOLO: self._yolo,
            Layout.COCO: self._coco,
            Layout.VOC: self._voc,
        }[self.layout]
        for data in zipped(write()):
            if data:
                yield Piece(data, self._written)

    def _pictures(self) -> Iterator[Picture]:
        for sample in self._samples:
            data = self._blobs.read(sample.digest)
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                ending = _ENDINGS.get(image.format or "", "png")
                if image.getexif().get(_ORIENTATION, 1) >= _FIRST_ON_ITS_SIDE:
                    width, height = height, width
            yield Picture(sample, f"{stem_of(sample)}.{ending}", data, width, height)
            self._written += 1

    def _class_folders(self) -> Files:
        for one in self._pictures():
            yield f"{one.folder}/{one.sample.label}/{one.name}", one.data

    def _yolo(self) -> Files:
        described = {"train": "images/train", "val": "images/val", "names": list(self._classes)}
        yield "data.yaml", [yaml.safe_dump(described, allow_unicode=True, sort_keys=False).encode()]
        number = {name: index for index, name in enumerate(self._classes)}
        for one in self._pictures():
            yield f"images/{one.folder}/{one.name}", one.data
            rows = ((number[box.label], *_centred(edges(box))) for box in one.sample.boxes)
            text = "".join(f"{row[0]} {' '.join(map(_decimal, row[1:]))}\n" for row in rows)
            yield f"labels/{one.folder}/{stem_of(one.sample)}.txt", text.encode()

    def _coco(self) -> Files:
        seen: list[tuple[Sample, str, int, int]] = []
        for one in self._pictures():
            yield f"{one.folder}/{one.name}", one.data
            seen.append((one.sample, one.name, one.width, one.height))
        for split in _SPLITS:
            yield (
                f"annotations/instances_{split}.json",
                self._instances([each for each in seen if folder_of(each[0]) == split]),
            )

    def _instances(self, seen: Sequence[tuple[Sample, str, int, int]]) -> Iterator[bytes]:
        # A group of its own each: what is grouped under another name counts as no class.
        categories = [{"id": n, "name": name, "supercategory": name} for n, name in enumerate(self._classes, 1)]
        number = {name: n for n, name in enumerate(self._classes, 1)}
        yield b'{"info":{"description":"exported by Milonga"},"licenses":[],"categories":'
        yield _json(categories)
        yield b',"images":['
        for index, (_, name, width, height) in enumerate(seen, 1):
            image = {"id": index, "file_name": name, "width": width, "height": height}
            yield (b"," if index > 1 else b"") + _json(image)
        yield b'],"annotations":['
        count = 0
        for index, (sample, _, width, height) in enumerate(seen, 1):
            for box in sample.boxes:
                left, top, right, bottom = edges(box)
                across, down = (right - left) * width, (bottom - top) * height
                count += 1
                annotation = {
                    "id": count,
                    "image_id": index,
                    "category_id": number[box.label],
                    "bbox": [left * width, top * height, across, down],
                    "area": across * down,
                    "iscrowd": 0,
                    "segmentation": [],
                }
                yield (b"," if count > 1 else b"") + _json(annotation)
        yield b"]}"

    def _voc(self) -> Files:
        lists: dict[str, list[str]] = {split: [] for split in _SPLITS}
        for one in self._pictures():
            stem = stem_of(one.sample)
            lists[one.folder].append(f"{stem}\n")
            yield f"JPEGImages/{one.name}", one.data
            yield f"Annotations/{stem}.xml", [_annotation(one).encode()]
        for split, names in lists.items():
            yield f"ImageSets/Main/{split}.txt", [name.encode() for name in names]
        # The challenge's layout does not number its classes.
        yield "classes.txt", [f"{name}\n".encode() for name in self._classes]


def _centred(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _decimal(value: float) -> str:
    """Return a number as tools write it that read no exponents; ten decimals tell apart what six are kept of."""
    return f"{value:.10f}".rstrip("0").rstrip(".") or "0"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _annotation(one: Picture) -> str:
    objects = []
    for box in one.sample.boxes:
        left, top, right, bottom = edges(box)
        # Pixels are counted from 1, and the last one belongs to the box: see voc_file.py.
        corners = {
            "xmin": left * one.width + 1,
            "ymin": top * one.height + 1,
            "xmax": right * one.width,
            "ymax": bottom * one.height,
        }
        bounds = "".join(f"<{name}>{_decimal(value)}</{name}>" for name, value in corners.items())
        objects.append(
            f"<object><name>{escape(box.label)}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>0</difficult><bndbox>{bounds}</bndbox></object>\n"
        )
    return (
        f"<annotation>\n<folder>JPEGImages</folder><filename>{one.name}</filename>\n"
        f"<size><width>{one.width}</width><height>{one.height}</height><depth>3</depth></size>\n"
        f"<segmented>0</segmented>\n{''.join(objects)}</annotation>\n"
    )
