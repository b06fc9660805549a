"""Data sets that go out in other tools' layouts: what comes back is the same version, whatever its classes are called."""

from __future__ import annotations

import io
import itertools
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from milonga import yolo
from milonga_hub.blobs import BlobStore
from milonga_hub.datasets.models import DatasetVersion
from milonga_hub.datasets.rules import TRAIN, VALIDATION, Box, Labelled, Sample
from milonga_hub.datasets.rules_exports import edges, stem_of
from milonga_hub.datasets.service import DatasetService
from milonga_hub.datasets.values import Layout
from milonga_hub.db import Database
from milonga_hub.errors import FailedPrecondition, NotFound
from milonga_hub.events import EventBus
from milonga_hub.zipping import zipped
from PIL import Image

from tests.databases import database_url

# Markup, quotes, other scripts, numbers, words of YAML, splits and layouts: what a class may be called.
ODD = [
    "<b>&amp;</b>",
    "\"quoted\" 'name'",
    "나사",
    "null",
    "10",
    "2",
    "train",
    "=1+1",
    "a: b # c",
    "ö\u0308",
    "labels",
    "none",
]
WIDTH, HEIGHT = 40, 24


@pytest.fixture
def service(tmp_path: Path) -> DatasetService:
    return _service(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetService, Path]:
    """What the examples of a property share."""
    folder = tmp_path_factory.mktemp("shared")
    return _service(folder), folder


def _service(folder: Path) -> DatasetService:
    database = Database(database_url(folder / "test.db"))
    database.create_tables()
    return DatasetService(database, BlobStore(folder / "blobs"), EventBus())


def _picture(number: int, **options: object) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, **{"format": "PNG", **options})  # type: ignore[arg-type]
    return buffer.getvalue()


def _zip(path: Path, files: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _detection(
    folder: Path, service: DatasetService, boxes: list[list[Box]], classes: list[str], name: str = "parts"
) -> DatasetVersion:
    """Import pictures with these boxes, the last of them to validate on."""
    files: dict[str, bytes | str] = {
        "data.yaml": yaml.safe_dump({"names": classes, "train": "images/train", "val": "images/val"})
    }
    for number, some in enumerate(boxes):
        part = "val" if number == len(boxes) - 1 else "train"
        files[f"images/{part}/{number} ü.png"] = _picture(number)
        files[f"labels/{part}/{number} ü.txt"] = "".join(
            f"{classes.index(box.label)} {box.x} {box.y} {box.width} {box.height}\n" for box in some
        )
    return service.import_archive(name, _zip(folder / "sent.zip", files), append=False, strict=True)


def _exported(service: DatasetService, version: DatasetVersion, layout: Layout, path: Path) -> Path:
    path.write_bytes(b"".join(piece.data for piece in service.export(version.name, layout).pieces()))
    return path


def _back(service: DatasetService, archive: Path) -> DatasetVersion:
    with tempfile.TemporaryDirectory() as folder:
        return _service(Path(folder)).import_archive("again", archive, append=False, strict=True)


_NUMBERS = itertools.count(1)
_SHARES = st.integers(1, 999_999).map(lambda millionths: millionths / 1e6)
_BOXES = st.builds(lambda label, *shape: yolo.within(label, *shape), st.integers(0, 2), *[_SHARES] * 4)
_LABELS = st.one_of(
    st.sampled_from(ODD), st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"]), min_size=1, max_size=8)
)


@settings(max_examples=20, phases=[Phase.explicit, Phase.generate])
@given(
    classes=st.lists(_LABELS.filter(lambda one: one == one.strip() != ""), min_size=3, max_size=3, unique=True),
    rows=st.lists(st.lists(_BOXES, min_size=1, max_size=3), min_size=3, max_size=4),
)
def test_boxes_that_go_out_in_any_layout_come_back_as_the_same_version(
    shared: tuple[DatasetService, Path], classes: list[str], rows: list[list[yolo.Row | str]]
) -> None:
    service, folder = shared
    boxes = [[Box(classes[one.number], *one[1:]) for one in some if isinstance(one, yolo.Row)] for some in rows]
    boxes[0].append(Box(classes[0], 0.5, 0.5, 1.0, 1.0))
    boxes[-1].append(Box(classes[0], 0.5, 0.5, 1.0, 1.0))
    name = f"parts{next(_NUMBERS)}"
    version = _detection(folder, service, boxes, classes, name)
    for layout in (Layout.YOLO, Layout.COCO, Layout.VOC):
        archive = _exported(service, version, layout, folder / f"{layout}.zip")
        again = service.import_archive(f"{name}-{layout.lower()}", archive, append=False, strict=True)
        assert (again.digest, again.classes, again.layout) == (version.digest, version.classes, layout)


@given(x=_SHARES, y=_SHARES, width=_SHARES, height=_SHARES)
def test_edges_lie_within_the_picture_and_are_read_as_the_box_that_they_are_of(
    x: float, y: float, width: float, height: float
) -> None:
    row = yolo.within(0, x, y, width, height)
    if isinstance(row, str):
        return
    left, top, right, bottom = edges(Box("bolt", *row[1:]))
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    for error in (-1e-9, 1e-9):
        read = yolo.within(0, (left + right) / 2, (top + bottom) / 2, right - left + error, bottom - top + error)
        assert read == row


@pytest.mark.parametrize("number", [0, 1])
def test_class_folders_come_back_with_their_splits_whatever_the_classes_are_called(
    service: DatasetService, tmp_path: Path, number: int
) -> None:
    files: dict[str, bytes | str] = {
        f"{part}/{label}/{one}.png": _picture(100 * index + one + number)
        for index, label in enumerate(ODD)
        for one in range(4)
        for part in ["val" if one == number else "train"]
    }
    version = service.import_archive("parts", _zip(tmp_path / "sent.zip", files), append=False, strict=True)
    assert (version.train_count, version.validation_count) == (3 * len(ODD), len(ODD))
    again = _back(service, _exported(service, version, Layout.CLASS_FOLDERS, tmp_path / "out.zip"))
    assert (again.digest, again.classes) == (version.digest, version.classes)


def test_a_version_stays_what_it_was_while_others_come(service: DatasetService, tmp_path: Path) -> None:
    first = _detection(tmp_path, service, [[Box("bolt", 0.5, 0.5, 0.5, 0.5)]] * 3, ["bolt", "nut"])
    _detection(tmp_path, service, [[Box("nut", 0.25, 0.5, 0.5, 0.5)]] * 4, ["nut"])
    again = _back(service, _exported(service, first, Layout.COCO, tmp_path / "out.zip"))
    assert again.digest == first.digest
    with pytest.raises(NotFound, match="milonga datasets versions"):
        service.export("datasets/parts/versions/9", Layout.COCO)


def test_a_picture_that_lay_on_its_side_has_the_size_that_its_boxes_are_of(
    service: DatasetService, tmp_path: Path
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    names = [f"train/{one}.jpg" for one in range(3)] + ["valid/3.jpg"]
    files: dict[str, bytes | str] = {
        name: _picture(number, format="JPEG", exif=turned) for number, name in enumerate(names)
    }
    for part in ("train", "valid"):
        some = [name.partition("/")[2] for name in names if name.startswith(part)]
        files[f"{part}/_annotations.coco.json"] = json.dumps(
            {
                "images": [
                    {"id": n, "file_name": name, "width": HEIGHT, "height": WIDTH} for n, name in enumerate(some)
                ],
                "annotations": [
                    {"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 6, 10]} for n in range(len(some))
                ],
                "categories": [{"id": 1, "name": "bolt"}],
            }
        )
    version = service.import_archive("parts", _zip(tmp_path / "sent.zip", files), append=False, strict=True)
    archive = _exported(service, version, Layout.COCO, tmp_path / "out.zip")
    with zipfile.ZipFile(archive) as opened:
        image = json.loads(opened.read("annotations/instances_val.json"))["images"][0]
    assert (image["width"], image["height"]) == (HEIGHT, WIDTH) and image["file_name"].endswith(".jpg")
    assert _back(service, archive).digest == version.digest


def test_pictures_keep_names_that_every_tool_takes_and_get_them_again(service: DatasetService, tmp_path: Path) -> None:
    version = _detection(tmp_path, service, [[Box("<i>", 0.5, 0.5, 0.5, 0.5)]] * 3, ["<i>"])
    archive = _exported(service, version, Layout.VOC, tmp_path / "out.zip")
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        written = [fromstring(opened.read(name)) for name in names if name.endswith(".xml")]
    assert [each.findtext("object/name") for each in written] == ["<i>"] * 3
    assert all(name.isascii() and " " not in name for name in names)
    once = Sample("sha256:" + "a1" * 32, "", TRAIN, 1, "x/a b.png")
    assert stem_of(once) == "a-b-a1a1a1a1a1a1a1a1"
    assert stem_of(Sample(once.digest, "", VALIDATION, 2, f"y/{stem_of(once)}.png")) == stem_of(once)


def test_a_layout_that_cannot_hold_a_data_set_names_one_that_can(service: DatasetService, tmp_path: Path) -> None:
    version = _detection(
        tmp_path, service, [[Box("a\tb", 0.5, 0.5, 0.5, 0.5), Box("x\x01", 0.5, 0.5, 0.5, 0.5)]] * 3, ["a\tb", "x\x01"]
    )
    with pytest.raises(FailedPrecondition, match="export it as YOLO or COCO or Pascal VOC"):
        service.export(version.name, Layout.CLASS_FOLDERS)
    with pytest.raises(FailedPrecondition, match=r"'x\\x01' cannot be written in XML"):
        service.export(version.name, Layout.VOC)
    assert _back(service, _exported(service, version, Layout.COCO, tmp_path / "out.zip")).digest == version.digest
    files: dict[str, bytes | str] = {
        f"{label}/{n}.png": _picture(n + 9 * ord(label)) for label in "ab" for n in range(3)
    }
    plain = service.import_archive("plain", _zip(tmp_path / "plain.zip", files), append=False, strict=True)
    with pytest.raises(FailedPrecondition, match="export it as class folders"):
        service.export(plain.name, Layout.COCO)
    # Labelled samples may say what no folder can.
    digests = [service._blobs.put(_picture(n)) for n in (500, 501)]
    slashed = service.add("plain", [Labelled(digest, "a/b", "x.png") for digest in digests])
    with pytest.raises(FailedPrecondition, match="'a/b' cannot be the name of a folder"):
        service.export(slashed.name)


def test_a_zip_file_is_handed_on_before_the_next_picture_is_read() -> None:
    read = []

    def pictures() -> Iterator[tuple[str, bytes]]:
        for number in range(3):
            read.append(number)
            yield f"{number}.png", bytes(1000)

    pieces = zipped(pictures())
    first = next(pieces)
    assert read == [0] and len(first) > 1000
    whole = first + b"".join(pieces)
    assert zipfile.ZipFile(io.BytesIO(whole)).namelist() == ["0.png", "1.png", "2.png"]
    assert whole == b"".join(zipped(pictures()))
