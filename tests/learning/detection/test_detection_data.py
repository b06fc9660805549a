"""Detection data sets with flaws: harmless ones are noted, others refused by file and line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from milonga_hub.learning.detection_data import FlawedData, read
from PIL import Image


def _data(folder: Path, labels: Mapping[str, str | None], names: list[str] | None = None) -> Path:
    """Write pictures of 32 by 24 pixels, grey or with colour or transparency in turn, with these label files."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
    for number, (name, text) in enumerate(labels.items()):
        split = "val" if name.startswith("val") else "train"
        mode = ("L", "RGBA", "RGB")[number % 3]
        Image.new(mode, (32, 24)).save(folder / "images" / split / f"{name}.png")
        if text is not None:
            (folder / "labels" / split / f"{name}.txt").write_text(text)
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({"train": "images/train", "val": "images/val", "names": names or ["bolt", "nut"]}))
    return path


_GOOD = {"a": "0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.1 0.1\n", "val_a": "1 0.5 0.5 0.2 0.2\n"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("7 0.5 0.5 0.1 0.1", r"a\.txt:2: class 7 is none of data\.yaml's 2 \(0 to 1\)"),
        ("-1 0.5 0.5 0.1 0.1", r"a\.txt:2: class -1"),
        ("0.5 0.5 0.5 0.1 0.1", r"a\.txt:2: class 0\.5"),
        ("0 120 80 20 20", r"a\.txt:2: .*not pixels"),
        ("0 -0.4 0.5 0.1 0.1", r"a\.txt:2: .*outside"),
        ("0 0.5 0.5 0 0.1", r"a\.txt:2: has no area"),
        ("0 0.5 0.5 0.1", r"a\.txt:2: has 4 values; write five"),
        ("0 0.5 0.5 0.1 wide", r"a\.txt:2: .*is not numbers"),
        ("0 nan 0.5 0.1 0.1", r"a\.txt:2: .*not finite"),
    ],
)
def test_a_wrong_label_is_refused_by_its_line(tmp_path: Path, line: str, told: str) -> None:
    path = _data(tmp_path, {**_GOOD, "a": f"0 0.5 0.5 0.2 0.2\n{line}\n"})
    with pytest.raises(FlawedData, match=told):
        read(path)


def test_all_flaws_are_told_at_once(tmp_path: Path) -> None:
    path = _data(tmp_path, {**_GOOD, "b": "9 0.5 0.5 0.1 0.1\n0 5 5 1 1\n"})
    with pytest.raises(FlawedData) as told:
        read(path)
    assert "b.txt:1" in str(told.value) and "b.txt:2" in str(told.value)


def test_an_unreadable_picture_is_refused_by_name(tmp_path: Path) -> None:
    path = _data(tmp_path, _GOOD)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = tmp_path / "images" / "train" / "a.png"
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(FlawedData, match=r"a\.png: cannot be read as a picture"):
        read(path)


def test_a_picture_of_few_pixels_is_refused(tmp_path: Path) -> None:
    path = _data(tmp_path, _GOOD)
    Image.new("RGB", (8, 40)).save(tmp_path / "images" / "train" / "a.png")
    with pytest.raises(FlawedData, match="8 by 40 pixels"):
        read(path)


def test_missing_and_empty_label_files_are_pictures_without_objects(tmp_path: Path) -> None:
    found = read(_data(tmp_path, {**_GOOD, "b": None, "c": "\n"}))
    assert [len(picture.classes) for picture in found.train] == [2, 0, 0]
    assert any("1 of 3 pictures in train have no label file" in note for note in found.notes)


def test_a_split_without_any_label_file_is_refused_with_the_place_that_was_looked_at(tmp_path: Path) -> None:
    with pytest.raises(FlawedData, match=r"labels/train/a\.txt"):
        read(_data(tmp_path, {**_GOOD, "a": None}))


def test_boxes_that_jut_out_are_cut_and_doubles_dropped(tmp_path: Path) -> None:
    found = read(_data(tmp_path, {**_GOOD, "a": "0 0.0 0.5 0.2 0.2\n0 0.0 0.5 0.2 0.2\n"}))
    assert np.allclose(found.train[0].boxes, [[0.05, 0.5, 0.1, 0.2]])


def test_polygons_become_their_boxes(tmp_path: Path) -> None:
    found = read(_data(tmp_path, {**_GOOD, "a": "1 0.1 0.2 0.5 0.2 0.3 0.6\n"}))
    assert np.allclose(found.train[0].boxes, [[0.3, 0.4, 0.4, 0.4]])


def test_classes_without_objects_and_rare_ones_are_noted(tmp_path: Path) -> None:
    many = "".join(f"0 0.5 0.5 0.{number:02} 0.2\n" for number in range(10, 30))
    found = read(_data(tmp_path, {**_GOOD, "a": f"{many}1 0.5 0.5 0.1 0.1\n"}, ["bolt", "nut", "gear"]))
    assert found.counts == [20, 1, 0]
    assert any("gear" in note for note in found.notes) and any("rare ones weigh more" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"names": None}, "names is missing"),
        ({"names": {0: "bolt", 2: "nut"}}, "numbered from 0"),
        ({"train": None}, "train is missing"),
        ({"val": "images/elsewhere"}, "does not exist"),
    ],
)
def test_a_data_yaml_that_says_too_little_is_refused(tmp_path: Path, change: dict[str, object], told: str) -> None:
    path = _data(tmp_path, _GOOD)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(FlawedData, match=told):
        read(path)


def test_reading_changes_no_file(tmp_path: Path) -> None:
    path = _data(tmp_path, _GOOD)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    read(path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_folder_of_another_machine_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    path = _data(tmp_path, _GOOD)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "path": "/nowhere/datasets/bolts"}))
    assert len(read(path).train) == 1
