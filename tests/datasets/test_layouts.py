"""COCO and Pascal VOC, as their own makers and labelling tools lay them; whatever is wrong is named by its file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.blobs import BlobStore
from milonga_hub.datasets import parts, rules_pixels
from milonga_hub.datasets.archive import pack_folder
from milonga_hub.datasets.models import DatasetVersion
from milonga_hub.datasets.rules import TRAIN, VALIDATION, Box, Sample
from milonga_hub.datasets.rules_pixels import PixelBox
from milonga_hub.datasets.service import DatasetService
from milonga_hub.datasets.values import Layout
from milonga_hub.db import Database
from milonga_hub.errors import InvalidInput
from milonga_hub.events import EventBus
from milonga_hub.tasks import Task
from PIL import Image

from tests.databases import database_url

WIDTH, HEIGHT = 40, 20
# A bolt in the left half; a nut in the lower right quarter.
BOLT, NUT = Box("bolt", 0.25, 0.5, 0.5, 1.0), Box("nut", 0.75, 0.75, 0.5, 0.5)


@pytest.fixture
def service(tmp_path: Path) -> DatasetService:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    return DatasetService(database, BlobStore(tmp_path / "blobs"), EventBus())


def _png(number: int, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def _write(folder: Path, path: str, data: bytes | str) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data.encode() if isinstance(data, str) else data)


def _import(service: DatasetService, folder: Path, strict: bool = False) -> DatasetVersion:
    archive = folder.with_suffix(".tar")
    pack_folder(folder, archive)
    return service.import_archive("parts", archive, append=False, strict=strict)


def _samples(service: DatasetService, version: DatasetVersion) -> dict[str, Sample]:
    return {one.path: one for one in service.samples(version.name, count=1000)[0]}


def _splits(service: DatasetService, version: DatasetVersion) -> dict[str, str]:
    return {path: one.split for path, one in _samples(service, version).items()}


def _why(version: DatasetVersion, path: str) -> str:
    return next(one.reason for one in version.rejected if one.path == path)


def _coco(names: Sequence[str], **changed: Any) -> dict[str, Any]:
    """Return an annotation file in which each picture shows a bolt and a nut."""
    boxes = ((1, [0, 0, 20, 20]), (2, [20, 10, 20, 10]))
    return {
        "info": {"year": 2017},
        "images": [
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} for number, name in enumerate(names, 7)
        ],
        "annotations": [
            {"id": number * 10 + category, "image_id": number, "category_id": category, "bbox": box, "iscrowd": 0,
             "area": box[2] * box[3], "segmentation": []}
            for number in range(7, 7 + len(names)) for category, box in boxes
        ],
        "categories": [{"id": 2, "name": "nut", "supercategory": "part"}, {"id": 1, "name": "bolt", "supercategory": "part"}],
        **changed,
    }  # fmt: skip


def _as_coco(folder: Path, to_train: int = 6, to_val: int = 2, **changed: Any) -> Path:
    """Lay pictures as cocodataset.org does."""
    for part, numbers in (("train", range(to_train)), ("val", range(to_train, to_train + to_val))):
        names = [f"{number:012}.png" for number in numbers]
        for number, name in zip(numbers, names, strict=True):
            _write(folder, f"{part}2017/{name}", _png(number))
        content = _coco(names, **(changed if part == "train" else {}))
        _write(folder, f"annotations/instances_{part}2017.json", json.dumps(content))
    return folder


def _changed(folder: Path, change: Callable[[Any], object]) -> Path:
    path = folder / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


def _xml(name: str, objects: str | None = None, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    corners = {"bolt": (1, 1, 20, 20), "nut": (21, 11, 40, 20)}
    if objects is None:
        objects = "".join(_object(label, corners[label]) for label in corners)
    return (
        f"<annotation><folder>VOC2012</folder><filename>{name}</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>{objects}</annotation>"
    )


def _object(label: str, corners: tuple[float, float, float, float], more: str = "") -> str:
    edges = "".join(
        f"<{edge}>{value}</{edge}>" for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{label}</name>{more}<bndbox>{edges}</bndbox></object>"


def _as_voc(folder: Path, root: str = "VOCdevkit/VOC2012/", to_train: int = 6, to_val: int = 2) -> Path:
    """Lay pictures as the development kit of the challenge does."""
    stems = [f"2012_{number:06}" for number in range(to_train + to_val)]
    for number, stem in enumerate(stems):
        _write(folder, f"{root}JPEGImages/{stem}.png", _png(number))
        _write(folder, f"{root}Annotations/{stem}.xml", _xml(f"{stem}.png"))
    for name, some in (("train", stems[:to_train]), ("val", stems[to_train:]), ("trainval", stems)):
        _write(folder, f"{root}ImageSets/Main/{name}.txt", "".join(f"{stem}\n" for stem in some))
        _write(folder, f"{root}ImageSets/Main/bolt_{name}.txt", "".join(f"{stem} -1\n" for stem in some))
    _write(folder, f"{root}SegmentationClass/{stems[0]}.png", _png(99))
    return folder


@pytest.mark.parametrize(("lay", "layout"), [(_as_coco, Layout.COCO), (_as_voc, Layout.VOC)])
def test_a_layout_is_found_out_and_its_boxes_and_splits_are_kept(
    service: DatasetService, tmp_path: Path, lay: Callable[[Path], Path], layout: Layout
) -> None:
    version = _import(service, lay(tmp_path / "a"), strict=True)
    assert (version.task, version.layout, version.classes) == (Task.DETECTION, layout, ["bolt", "nut"])
    assert (version.train_count, version.validation_count) == (6, 2)
    assert not version.rejected and not version.notes
    for path, sample in _samples(service, version).items():
        assert sample.boxes == (BOLT, NUT), "edges in pixels are shares of the picture, without an offset"
        assert sample.split == (TRAIN if "train2017" in path or int(Path(path).stem[-2:]) < 6 else VALIDATION)


def test_one_scene_is_the_same_version_in_each_layout(service: DatasetService, tmp_path: Path) -> None:
    first = _import(service, _as_coco(tmp_path / "a"))
    assert _import(service, _as_voc(tmp_path / "b")) == first


def test_an_export_with_annotations_beside_the_pictures_is_understood(service: DatasetService, tmp_path: Path) -> None:
    # As Roboflow exports: its first category only names the project.
    folder = tmp_path / "a"
    categories = [{"id": 0, "name": "parts", "supercategory": "none"}, *({"id": number, "name": name, "supercategory": "parts"} for number, name in ((1, "bolt"), (2, "nut")))]  # fmt: skip
    for number, part in enumerate(["train"] * 4 + ["valid"] * 2 + ["test"]):
        _write(folder, f"{part}/{number}_png.rf.abc.png", _png(number))
    for part in ("train", "valid", "test"):
        names = sorted(path.name for path in (folder / part).iterdir())
        _write(folder, f"{part}/_annotations.coco.json", json.dumps(_coco(names, categories=categories)))
    _write(folder, "README.roboflow.txt", "parts")
    version = _import(service, folder, strict=True)
    assert (version.classes, version.train_count, version.validation_count) == (["bolt", "nut"], 4, 2)
    assert version.notes == [
        "parts only groups other classes and was left out.",
        "1 pictures to test with were left out, the first of them test/6_png.rf.abc.png.",
    ]


def test_xml_beside_the_pictures_in_folders_named_like_splits_is_understood(
    service: DatasetService, tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    for number, part in enumerate(["train"] * 4 + ["valid"] * 2):
        _write(folder, f"{part}/{number}.png", _png(number))
        _write(folder, f"{part}/{number}.xml", _xml("somewhere\\else.png"))
    version = _import(service, folder, strict=True)
    assert (version.layout, version.train_count, version.validation_count) == (Layout.VOC, 4, 2)


@pytest.mark.parametrize("lay", [_as_coco, _as_voc])
def test_without_splits_contents_decide_and_always_alike(
    service: DatasetService, tmp_path: Path, lay: Callable[..., Path]
) -> None:
    folder = lay(tmp_path / "a", to_train=30, to_val=0)
    for file in [*folder.rglob("*val*.txt"), *folder.rglob("*val*.json"), *folder.rglob("train.txt")]:
        file.unlink()
    first = _import(service, folder)
    assert first.train_count + first.validation_count == 30 and first.validation_count > 1
    assert _import(service, folder) == first


def test_pictures_that_share_a_name_are_told_apart_by_their_folders(service: DatasetService, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for part, start in (("train", 0), ("val", 10)):
        for number in range(4):
            _write(folder, f"images/{part}/{number}.png", _png(start + number))
        _write(folder, f"annotations/{part}.json", json.dumps(_coco([f"{number}.png" for number in range(4)])))
    assert set(_splits(service, _import(service, folder, strict=True)).items()) == {
        (f"images/{part}/{number}.png", split) for part, split in (("train", TRAIN), ("val", VALIDATION)) for number in range(4)
    }  # fmt: skip


def _add(key: str, *entries: dict[str, Any]) -> Callable[[Any], object]:
    return lambda content: content[key].extend(entries)


PICTURE = "train2017/000000000000.png"
TRAINING = "annotations/instances_train2017.json"
BAD_ANNOTATIONS = [
    ({"bbox": [100, 0, 20, 20]}, "annotation 1 lies outside of the picture: from 100, 0, 120, 20 in 40 × 20 pixels"),
    ({"bbox": [0, 0, 0, 20]}, "annotation 1 has no area within the picture"),
    ({"bbox": [0, 0, 20]}, "annotation 1 has no bbox; write [x, y, width, height] in pixels"),
    ({"bbox": [0, 0, "wide", 1]}, "annotation 1 has no bbox"),
    ({"bbox": [0, 0, 10**400, 1]}, "annotation 1 has no bbox"),
    ({"bbox": [0, 0, float("nan"), 1]}, "annotation 1 has an edge that is not finite"),
    ({"bbox": [0, 0, 20, 20], "category_id": 9}, "annotation 1 is of category 9, which is not listed"),
]


@pytest.mark.parametrize(("entry", "words"), BAD_ANNOTATIONS)
def test_a_picture_with_a_wrong_annotation_is_left_out_and_named(
    service: DatasetService, tmp_path: Path, entry: dict[str, Any], words: str
) -> None:
    wrong = {"id": 1, "image_id": 7, "category_id": 1, **entry}
    version = _import(service, _changed(_as_coco(tmp_path / "a"), _add("annotations", wrong)))
    assert version.train_count == 5 and [one.path for one in version.rejected] == [PICTURE]
    assert _why(version, PICTURE).startswith(f"{TRAINING}: {words}")


def test_what_a_coco_file_says_of_pictures_that_are_not_there_is_named_once(
    service: DatasetService, tmp_path: Path
) -> None:
    missing = ({"id": 50 + number, "file_name": f"gone{number}.png"} for number in range(5))
    folder = _changed(_as_coco(tmp_path / "a"), _add("images", *missing))
    lost = ({"id": number, "image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1]} for number in range(2))
    version = _import(service, _changed(folder, _add("annotations", *lost)))
    reasons = [one.reason for one in version.rejected if one.path == TRAINING]
    assert reasons == [
        "lists pictures that are not there: gone0.png; gone1.png; gone2.png; and 2 more pictures",
        "annotation 0 is of image 99, which is not listed; annotation 1 is of image 99, which is not listed",
    ]
    assert version.train_count == 6


def test_crowds_are_left_out_and_counted_and_doubled_ids_are_told(service: DatasetService, tmp_path: Path) -> None:
    crowd = {"id": 71, "image_id": 7, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 40, 20], "segmentation": {}}
    version = _import(service, _changed(_as_coco(tmp_path / "a"), _add("annotations", crowd)), strict=True)
    assert version.class_counts == {"bolt": 8, "nut": 8}
    assert version.notes == [
        f"1 annotations of crowds (iscrowd) in {TRAINING} were left out: they mark no single objects.",
        f"1 ids of annotations in {TRAINING} stand more than once, 71 among them; all of these annotations were read.",
    ]


def test_an_image_id_for_two_pictures_leaves_both_out(service: DatasetService, tmp_path: Path) -> None:
    folder = _changed(_as_coco(tmp_path / "a"), lambda content: content["images"][1].update(id=7))
    version = _import(service, folder)
    assert _why(version, PICTURE).startswith(f"{TRAINING}: image id 7 stands for 000000000001.png too")
    assert _why(version, TRAINING).startswith("annotation 81 is of image 8, which is not listed")
    assert version.train_count == 4


def test_a_picture_in_no_annotation_file_is_named(service: DatasetService, tmp_path: Path) -> None:
    folder = _as_coco(tmp_path / "a")
    _write(folder, "train2017/new.png", _png(50))
    assert _why(_import(service, folder), "train2017/new.png") == "belongs to no entry of an annotation file"


def test_classes_that_no_picture_shows_are_told(service: DatasetService, tmp_path: Path) -> None:
    gear = {"id": 3, "name": "gear", "supercategory": "part"}
    version = _import(service, _changed(_as_coco(tmp_path / "a"), _add("categories", gear)))
    assert version.classes == ["bolt", "nut", "gear"]
    assert version.notes == ["No training picture shows gear; networks will not find them."]


def test_keypoints_beside_instances_add_no_boxes(service: DatasetService, tmp_path: Path) -> None:
    folder = _as_coco(tmp_path / "a")
    for kind in ("person_keypoints", "captions"):
        content = _coco(["000000000000.png"], categories=[{"id": 1, "name": "person"}, {"id": 2, "name": "x"}])
        if kind == "captions":
            del content["categories"]
        _write(folder, f"annotations/{kind}_train2017.json", json.dumps(content))
    assert _import(service, folder, strict=True).classes == ["bolt", "nut"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["images"][0].pop("file_name"), r"instances_train2017\.json.*images\.0\.file_name"),
        (lambda content: content.update(annotations={}), r"not a COCO annotation file: annotations: "),
        (_add("categories", {"id": 1, "name": "x"}), "categories have id 1 more than once"),
        (_add("categories", {"id": 5, "name": "nut"}), "categories have name 'nut' more than once"),
        (_add("categories", {"id": 5, "name": " "}), "a category has no name"),
    ],
)
def test_a_coco_file_that_makes_no_sense_is_refused(
    service: DatasetService, tmp_path: Path, change: Callable[[Any], object], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        _import(service, _changed(_as_coco(tmp_path / "a"), change))


def test_annotations_without_their_pictures_say_what_to_send(service: DatasetService, tmp_path: Path) -> None:
    _write(tmp_path / "a", "instances.json", json.dumps(_coco(["1.png"])))
    with pytest.raises(InvalidInput, match=r"none of the 1 pictures that instances\.json lists is in the archive"):
        _import(service, tmp_path / "a")
    _write(tmp_path / "b", "Annotations/1.xml", _xml("1.png"))
    with pytest.raises(InvalidInput, match=r"no picture belongs to Annotations/1\.xml"):
        _import(service, tmp_path / "b")


ENTITIES = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'
BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]><annotation><filename>&y;</filename></annotation>'
BAD_XML = [
    (_xml("", _object("nut", (100, 1, 120, 9))), "Annotations/{}: object 1 (nut) lies outside of the picture"),
    (_xml("", _object("nut", (9, 9, 3, 3))), "Annotations/{}: object 1 (nut) has no area within the picture"),
    (_xml("", "<object><name>nut</name></object>"), "Annotations/{}: object 1 (nut) has no bndbox of four numbers"),
    (_xml("", _object("", (1, 1, 9, 9))), "Annotations/{}: object 1 has no name"),
    (_xml("", size=(20, 40)), "Annotations/{}: is annotated at 20 × 40 pixels and has 40 × 20 once it is turned"),
    (_xml("", size=(60, 50)), "Annotations/{}: is annotated at 60 × 50 pixels and has 40 × 20; send the picture"),
]


@pytest.mark.parametrize(("xml", "words"), BAD_XML)
def test_a_picture_with_a_wrong_object_is_left_out_and_named(
    service: DatasetService, tmp_path: Path, xml: str, words: str
) -> None:
    folder = _as_voc(tmp_path / "a", root="")
    _write(folder, "Annotations/2012_000000.xml", xml)
    version = _import(service, folder)
    assert [one.path for one in version.rejected] == ["JPEGImages/2012_000000.png"]
    assert _why(version, "JPEGImages/2012_000000.png").startswith(words.format("2012_000000.xml"))


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (ENTITIES, "has a document type or entities"),
        (BOMB, "has a document type or entities"),
        (f'<!DOCTYPE annotation SYSTEM "http://elsewhere.example/a.dtd">{_xml("")}', "has a document type or entities"),
        ("<annotation><filename>", "cannot be read as XML"),
        ("<note/>", "is XML of 'note'"),
        (_xml("2012_000001.png"), "is of JPEGImages/2012_000001.png, as Annotations/"),
    ],
)
def test_an_xml_file_that_cannot_be_used_is_named_and_so_is_its_picture(
    service: DatasetService, tmp_path: Path, xml: str, words: str
) -> None:
    folder = _as_voc(tmp_path / "a", root="")
    _write(folder, "Annotations/2012_000002.xml", xml)
    version = _import(service, folder)
    wrong = {one.path: one.reason for one in version.rejected}
    assert wrong["Annotations/2012_000002.xml"].startswith(words)
    assert wrong["JPEGImages/2012_000002.png"].startswith("has no XML file that can be used")
    assert version.train_count == 5


def test_difficult_objects_are_left_out_and_counted_and_parts_of_objects_are_none(
    service: DatasetService, tmp_path: Path
) -> None:
    folder = _as_voc(tmp_path / "a", root="")
    head = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    objects = _object("bolt", (1, 1, 20, 20), head) + _object("nut", (1, 1, 9, 9), "<difficult>1</difficult>")
    _write(folder, "Annotations/2012_000000.xml", _xml("2012_000000.png", objects))
    version = _import(service, folder, strict=True)
    assert version.class_counts == {"bolt": 8, "nut": 7}
    assert version.notes == ["1 objects marked difficult were left out, as Pascal VOC does not count them."]


def test_pictures_in_neither_list_and_those_to_test_with_are_counted(service: DatasetService, tmp_path: Path) -> None:
    folder = _as_voc(tmp_path / "a", root="")
    for name, left in (("train", range(3)), ("trainval", ()), ("test", [5])):
        _write(folder, f"ImageSets/Main/{name}.txt", "".join(f"2012_{number:06}\n" for number in left))
    version = _import(service, folder, strict=True)
    assert (version.train_count, version.validation_count) == (3, 2)
    assert version.notes == [
        "1 pictures to test with were left out, the first of them JPEGImages/2012_000005.png.",
        "2 pictures are in neither train nor validation and were left out, the first of them JPEGImages/2012_000003.png.",
    ]


def test_a_picture_in_both_splits_leaves_it_to_the_contents(service: DatasetService, tmp_path: Path) -> None:
    folder = _as_voc(tmp_path / "a", root="")
    (folder / "ImageSets/Main/val.txt").write_text("2012_000000\n2012_000007\n")
    version = _import(service, folder)
    assert version.notes == [
        "1 pictures are in train and in validation, the first of them JPEGImages/2012_000000.png; all pictures are split by"
        " their content instead."
    ]


def test_class_folders_with_other_json_and_xml_are_still_classes(service: DatasetService, tmp_path: Path) -> None:
    for label in "ab":
        for number in range(4):
            _write(tmp_path / "a", f"{label}/{number}.png", _png(ord(label) * 10 + number))
    _write(tmp_path / "a", "a/meta.json", '{"images": []}')
    _write(tmp_path / "a", "b/meta.xml", "<meta/>")
    version = _import(service, tmp_path / "a")
    assert (version.task, version.layout) == (Task.CLASSIFICATION, Layout.CLASS_FOLDERS)
    assert sorted(one.path for one in version.rejected) == ["a/meta.json", "b/meta.xml"]


@given(st.tuples(*[st.floats()] * 4), st.tuples(*[st.integers(1, 5000)] * 2))
def test_whatever_edges_are_written_a_box_lies_within_the_picture_or_is_refused(
    edges: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    box = rules_pixels.share(PixelBox("nut", *edges, "object 1"), size)
    if isinstance(box, Box):
        assert box.width > 0 and box.height > 0
        for centre, length in ((box.x, box.width), (box.y, box.height)):
            assert centre - length / 2 >= -1e-6 and centre + length / 2 <= 1 + 1e-6


def test_a_scaled_picture_keeps_its_boxes() -> None:
    assert rules_pixels.frame((80, 40), (40, 20)) == (80, 40)
    assert rules_pixels.frame((0, 0), (40, 20)) == (40, 20)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("annotations/instances_train2017.json", TRAIN),
        ("valid/_annotations.coco.json", VALIDATION),
        ("train-set/annotations/val.json", VALIDATION),
        ("test/labels.json", parts.TEST),
        ("trains/evaluation.json", ""),
    ],
)
def test_the_last_part_of_a_path_that_names_a_split_decides(path: str, part: str) -> None:
    assert parts.part_of(path) == part
