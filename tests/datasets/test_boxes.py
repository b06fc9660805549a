"""Pictures with boxes, in YOLO's layout, become versions; whatever is wrong with a label is named by file and line."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from milonga_hub.blobs import BlobStore, digest_of
from milonga_hub.datasets import rules
from milonga_hub.datasets.archive import pack_folder
from milonga_hub.datasets.models import DatasetVersion
from milonga_hub.datasets.rules import Box, Labelled
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.learning.detection_data import read
from milonga_hub.tasks import Task
from PIL import Image

from tests.databases import database_url
from tests.e2e import digits

NAMES = ["bolt", "nut"]


@pytest.fixture
def service(tmp_path: Path) -> DatasetService:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    return DatasetService(database, BlobStore(tmp_path / "blobs"), EventBus())


def _png(number: int, size: tuple[int, int] = (24, 16)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _scene(
    folder: Path, to_train: int = 6, to_val: int = 2, split: bool = True, start: int = 0, **described: object
) -> Path:
    """Write pictures with two boxes each: a bolt, and a nut whose place tells the picture's number."""
    for number in range(start, start + to_train + to_val):
        part = "train" if number < start + to_train else "val"
        for kind, name, data in (
            ("images", f"{number}.png", _png(number)),
            ("labels", f"{number}.txt", f"0 0.5 0.5 0.2 0.2\n1 0.{number + 10} 0.2 0.1 0.1\n".encode()),
        ):
            path = folder / kind / (part if split else "") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    splits = {"train": "images/train", "val": "images/val"} if split else {}
    (folder / "data.yaml").write_text(yaml.safe_dump({**splits, "names": NAMES, **described}))
    return folder


def _import(service: DatasetService, folder: Path, append: bool = False, strict: bool = False) -> DatasetVersion:
    archive = folder.with_suffix(".tar")
    pack_folder(folder, archive)
    return service.import_archive("parts", archive, append, strict)


def _written(service: DatasetService, version: DatasetVersion, folder: Path) -> Path:
    return service.write_training_data(version.name, 64, folder)


def test_pictures_with_boxes_become_a_version_that_counts_boxes(service: DatasetService, tmp_path: Path) -> None:
    version = _import(service, _scene(tmp_path / "a"))
    assert version.task is Task.DETECTION is service.get("parts").task
    assert version.classes == NAMES and version.class_counts == {"bolt": 8, "nut": 8}
    assert (version.train_count, version.validation_count, version.added_count) == (6, 2, 8)
    assert not version.rejected and not version.notes


def test_what_jobs_get_is_what_was_sent(service: DatasetService, tmp_path: Path) -> None:
    sent = _scene(tmp_path / "a")
    path = _written(service, _import(service, sent), tmp_path / "run")
    ours, theirs = read(path), read(sent / "data.yaml")
    assert ours.names == theirs.names
    for split in ("train", "val"):
        known = {one.path.read_bytes(): one for one in getattr(theirs, split)}
        found = {one.path.read_bytes(): one for one in getattr(ours, split)}
        assert known.keys() == found.keys()
        for data, one in found.items():
            assert np.array_equal(one.classes, known[data].classes) and np.array_equal(one.boxes, known[data].boxes)
    assert set(json.loads((path.parent / "added.json").read_text()).values()) == {1}
    before = {file: file.stat().st_mtime_ns for file in path.parent.rglob("*")}
    assert _written(service, service.latest("parts"), tmp_path / "run") == path
    assert before == {file: file.stat().st_mtime_ns for file in path.parent.rglob("*")}


def test_without_splits_the_content_decides(service: DatasetService, tmp_path: Path) -> None:
    version = _import(service, _scene(tmp_path / "a", to_train=30, to_val=0, split=False))
    found = read(_written(service, version, tmp_path / "run"))
    for split, pictures in ((rules.TRAIN, found.train), (rules.VALIDATION, found.val)):
        assert pictures
        assert {rules.split_of(digest_of(one.path.read_bytes())) for one in pictures} == {split}


@pytest.mark.parametrize(
    ("given", "noted"),
    [
        ({"val": "images/train"}, "6 pictures in common"),
        ({"val": "images/nowhere"}, "where there is no picture"),
    ],
)
def test_splits_that_cannot_be_meant_leave_it_to_the_content_and_are_noted(
    service: DatasetService, tmp_path: Path, given: dict[str, Any], noted: str
) -> None:
    version = _import(service, _scene(tmp_path / "a", **given))
    assert version.train_count + version.validation_count == 8
    assert any(noted in note for note in version.notes)


def test_a_picture_in_both_splits_stays_in_one_and_is_noted(service: DatasetService, tmp_path: Path) -> None:
    folder = _scene(tmp_path / "a")
    for kind, ending in (("images", "png"), ("labels", "txt")):
        shutil.copy(folder / kind / "train" / f"0.{ending}", folder / kind / "val" / f"copy.{ending}")
    version = _import(service, folder)
    assert (version.train_count, version.validation_count, version.duplicate_count) == (6, 2, 1)
    [note] = version.notes
    assert "images/val/copy.png (the same as images/train/0.png)" in note


def test_lists_of_pictures_and_folders_around_them_are_understood(service: DatasetService, tmp_path: Path) -> None:
    folder = _scene(tmp_path / "a" / "export", path="/home/someone/export", train="train.txt", val=["../images/val"])
    (folder / "train.txt").write_text("".join(f"./images/train/{number}.png\n" for number in range(4)))
    version = _import(service, tmp_path / "a")
    assert (version.train_count, version.validation_count) == (4, 2)
    assert {one.path for one in version.rejected} == {f"export/images/train/{number}.png" for number in (4, 5)}


def test_the_same_scenes_make_no_second_version(service: DatasetService, tmp_path: Path) -> None:
    first = _import(service, _scene(tmp_path / "a"))
    assert _import(service, tmp_path / "a") == first == _import(service, tmp_path / "a", append=True)


def test_appending_keeps_what_is_there_and_takes_new_classes_at_the_end(
    service: DatasetService, tmp_path: Path
) -> None:
    _import(service, _scene(tmp_path / "a"))
    second = _import(service, _scene(tmp_path / "b", start=20, names=["gear", "bolt"]), append=True)
    assert second.classes == ["bolt", "nut", "gear"]
    assert second.class_counts == {"bolt": 16, "nut": 8, "gear": 8}
    assert (second.number, second.added_count, second.train_count) == (2, 8, 12)
    path = _written(service, second, tmp_path / "run")
    added = json.loads((path.parent / "added.json").read_text())
    assert sorted(added.values()) == [1] * 8 + [2] * 8
    assert read(path).counts == [12, 6, 6]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("7 0.5 0.5 0.1 0.1", "labels/train/0.txt:1: class 7 is none of data.yaml's 2"),
        ("0 120 80 20 20", "labels/train/0.txt:1: lies outside of the picture"),
        ("0 0.5 0.5 0.1", "labels/train/0.txt:1: has 4 values; write five"),
        ("\x89\xff", "labels/train/0.txt is not text"),
    ],
)
def test_a_picture_with_a_wrong_label_is_left_out_and_named(
    service: DatasetService, tmp_path: Path, line: str, told: str
) -> None:
    folder = _scene(tmp_path / "a")
    (folder / "labels" / "train" / "0.txt").write_bytes(line.encode("latin-1"))
    version = _import(service, folder)
    assert [one.path for one in version.rejected] == ["images/train/0.png"]
    assert version.rejected[0].reason.startswith(told)
    assert version.train_count == 5


def test_a_wrong_label_refuses_a_strict_import_and_leaves_nothing(service: DatasetService, tmp_path: Path) -> None:
    folder = _scene(tmp_path / "a")
    (folder / "labels" / "train" / "0.txt").write_text("9 0.5 0.5 0.1 0.1")
    with pytest.raises(InvalidInput, match=r"labels/train/0\.txt:1: class 9"):
        _import(service, folder, strict=True)
    with pytest.raises(NotFound):
        service.get("parts")


def test_empty_and_missing_label_files_are_pictures_without_objects(service: DatasetService, tmp_path: Path) -> None:
    folder = _scene(tmp_path / "a")
    (folder / "labels" / "train" / "0.txt").write_text("")
    (folder / "labels" / "train" / "1.txt").unlink()
    version = _import(service, folder)
    assert version.train_count == 6 and version.class_counts == {"bolt": 6, "nut": 6}
    assert not version.rejected
    assert any("1 of 8 pictures have no label file" in note for note in version.notes)


def test_pictures_that_are_too_small_or_broken_are_left_out(service: DatasetService, tmp_path: Path) -> None:
    folder = _scene(tmp_path / "a")
    (folder / "images" / "train" / "0.png").write_bytes(_png(0, (8, 40)))
    (folder / "images" / "train" / "1.png").write_bytes(b"\x89PNG but no picture")
    version = _import(service, folder)
    assert {one.path for one in version.rejected} == {"images/train/0.png", "images/train/1.png"}
    assert any("8 by 40 pixels" in one.reason for one in version.rejected)


def _without_names(folder: Path) -> None:
    (folder / "data.yaml").write_text("train: images/train\n")


def _without_yaml(folder: Path) -> None:
    (folder / "data.yaml").unlink()


def _without_labels(folder: Path) -> None:
    shutil.rmtree(folder / "labels")


def _without_objects(folder: Path) -> None:
    for path in (folder / "labels" / "train").iterdir():
        path.write_text("")


def _of_damaged_yaml(folder: Path) -> None:
    (folder / "data.yaml").write_text("names: [bolt\n")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_without_names, r"data\.yaml: names is missing"),
        (_without_yaml, r"no data\.yaml that names the classes"),
        (_without_labels, r"no picture has a label file; that of images/train/0\.png would be labels/train/0\.txt"),
        (_without_objects, "no train picture has an object"),
        (_of_damaged_yaml, r"data\.yaml cannot be read as YAML"),
    ],
)
def test_scenes_that_teach_nothing_are_refused(
    service: DatasetService, tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    folder = _scene(tmp_path / "a")
    damage(folder)
    with pytest.raises(InvalidInput, match=told):
        _import(service, folder)


def test_a_data_set_keeps_its_task(service: DatasetService, tmp_path: Path) -> None:
    _import(service, _scene(tmp_path / "a"))
    classes = digits.write(digits.load(known=60, later=1, live=1).known, tmp_path / "b")
    with pytest.raises(FailedPrecondition, match="parts is a data set for detection"):
        _import(service, classes)
    assert service.latest("parts").number == 1


def test_class_folders_with_a_stray_yaml_are_still_classes(service: DatasetService, tmp_path: Path) -> None:
    folder = digits.write(digits.load(known=60, later=1, live=1).known, tmp_path / "a")
    (folder / "3" / "about.yaml").write_text("names: [three]")
    version = _import(service, folder)
    assert version.task is Task.CLASSIFICATION and [one.path for one in version.rejected] == ["3/about.yaml"]


def test_the_same_picture_with_other_boxes_is_refused() -> None:
    one, other = (Labelled("sha256:" + "0" * 64, "", f"{x}.png", (Box("nut", x, 0.5, 0.1, 0.1),)) for x in (0.2, 0.3))
    assert set(rules.merge([], [one, other], 1).refused) == {"0.2.png", "0.3.png"}
    known = rules.merge([], [one], 1).samples
    merged = rules.merge(known, [one, other], 2)
    assert merged.samples == known and merged.duplicate_count == 1 and set(merged.refused) == {"0.3.png"}


def test_boxes_that_are_drawn_anew_replace_the_old_ones() -> None:
    one, other = (Labelled("sha256:" + "0" * 64, "", "a.png", (Box("nut", x, 0.5, 0.1, 0.1),)) for x in (0.2, 0.3))
    known = rules.merge([], [one], 1).samples
    (found,) = rules.merge([], [other], 2, known).samples
    assert (found.boxes, found.added_in, found.split) == (other.boxes, 1, known[0].split)


def test_boxes_and_the_numbers_of_classes_are_part_of_a_versions_digest() -> None:
    samples = rules.merge(
        [], [Labelled("sha256:" + "0" * 64, "", "a.png", (Box("nut", 0.2, 0.5, 0.1, 0.1),))], 1
    ).samples
    moved = rules.merge([], [Labelled("sha256:" + "0" * 64, "", "a.png", (Box("nut", 0.3, 0.5, 0.1, 0.1),))], 1).samples
    digests = {rules.digest_of_version(some, names) for some in (samples, moved) for names in (NAMES, NAMES[::-1])}
    assert len(digests) == 4


def test_a_picture_that_was_held_upright_is_seen_upright(tmp_path: Path) -> None:
    from milonga import pictures

    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by a quarter.
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16)).save(buffer, "JPEG", exif=exif)
    assert pictures.decode(buffer.getvalue()).size == (16, 24)


def test_links_among_scenes_are_refused(service: DatasetService, tmp_path: Path) -> None:
    pack_folder(_scene(tmp_path / "a"), tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        link = tarfile.TarInfo("images/train/passwd.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(InvalidInput, match="is a link"):
        service.import_archive("parts", tmp_path / "a.tar", False, False)
