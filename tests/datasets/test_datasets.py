"""Pictures in class folders become versions; whatever cannot be used is named."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.blobs import BlobStore, digest_of
from milonga_hub.datasets import rules
from milonga_hub.datasets.archive import pack_folder
from milonga_hub.datasets.rules import Labelled
from milonga_hub.datasets.service import DatasetService
from milonga_hub.db import Database
from milonga_hub.errors import InvalidInput, NotFound
from milonga_hub.events import EventBus

from tests.databases import database_url
from tests.e2e import digits


@pytest.fixture
def service(tmp_path: Path) -> DatasetService:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    return DatasetService(database, BlobStore(tmp_path / "blobs"), EventBus())


def _pictures(folder: Path, start: int = 0, count: int = 60) -> Path:
    return digits.write(digits.load(known=start + count, later=1, live=1).known[start:], folder)


def _zip(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


def _packed(folder: Path) -> Path:
    archive = folder.with_suffix(".tar")
    pack_folder(folder, archive)
    return archive


def _import(service: DatasetService, archive: Path, append: bool = False, strict: bool = False) -> object:
    return service.import_archive("digits", archive, append, strict)


def test_a_folder_of_pictures_becomes_a_version_with_both_splits(service: DatasetService, tmp_path: Path) -> None:
    version = service.import_archive("digits", _packed(_pictures(tmp_path / "a")), False, False)
    assert version.name == "datasets/digits/versions/1"
    assert version.classes == [str(digit) for digit in range(10)]
    assert version.train_count + version.validation_count == 60 == version.added_count
    assert version.validation_count > 5
    assert service.latest("digits") == version


def test_the_same_pictures_make_no_second_version(service: DatasetService, tmp_path: Path) -> None:
    archive = _packed(_pictures(tmp_path / "a"))
    first = service.import_archive("digits", archive, False, False)
    assert service.import_archive("digits", archive, False, False) == first
    assert service.import_archive("digits", archive, True, False) == first


def test_appending_keeps_every_picture_in_its_split(service: DatasetService, tmp_path: Path) -> None:
    service.import_archive("digits", _packed(_pictures(tmp_path / "a")), False, False)
    second = service.import_archive("digits", _packed(_pictures(tmp_path / "b", 60, 40)), True, False)
    assert (second.number, second.added_count) == (2, 40)
    paths = [
        service.write_training_data(f"datasets/digits/versions/{number}", 16, tmp_path / str(number))
        for number in (1, 2)
    ]
    with np.load(paths[0]) as old, np.load(paths[1]) as new:
        for split in ("train", "val"):
            before = {picture.tobytes() for picture in old[f"x_{split}"]}
            kept = new[f"x_{split}"][new[f"added_{split}"] == 1]
            assert {picture.tobytes() for picture in kept} == before
            assert new[f"x_{split}"].dtype == np.uint8 and new[f"x_{split}"].shape[1:] == (3, 16, 16)


def test_a_corrupt_picture_is_left_out_and_named(service: DatasetService, tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "a")
    (folder / "3" / "broken.png").write_bytes(b"\x89PNG but no picture")
    version = service.import_archive("digits", _packed(folder), False, False)
    assert [one.path for one in version.rejected] == ["3/broken.png"]
    assert version.train_count + version.validation_count == 60


def test_a_corrupt_picture_refuses_a_strict_import_and_leaves_nothing(service: DatasetService, tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "a")
    (folder / "3" / "broken.png").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"3/broken\.png: the file is empty"):
        _import(service, _packed(folder), strict=True)
    with pytest.raises(NotFound, match="import one"):
        service.get("digits")


def test_an_empty_class_is_named(service: DatasetService, tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "a")
    (folder / "eleven").mkdir()
    with pytest.raises(InvalidInput, match="'eleven' has no usable picture"):
        _import(service, _packed(folder))


def test_one_class_only_is_refused(service: DatasetService, tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "a")
    archive = _zip(tmp_path / "one.zip", [(f"5/{path.name}", path.read_bytes()) for path in (folder / "5").iterdir()])
    with pytest.raises(InvalidInput, match="only one class, '5'"):
        _import(service, archive)


def test_one_picture_in_two_classes_is_refused_in_both(service: DatasetService, tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "a")
    copied = next((folder / "3").iterdir())
    (folder / "7" / "copy.png").write_bytes(copied.read_bytes())
    version = service.import_archive("digits", _packed(folder), False, False)
    assert {one.path for one in version.rejected} == {f"3/{copied.name}", "7/copy.png"}


def test_repeated_pictures_count_once(service: DatasetService, tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "a")
    (folder / "3" / "again.png").write_bytes(next((folder / "3").iterdir()).read_bytes())
    version = service.import_archive("digits", _packed(folder), False, False)
    assert version.duplicate_count == 1
    assert version.train_count + version.validation_count == 60


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_half_an_archive_is_refused(service: DatasetService, tmp_path: Path, part: float) -> None:
    for archive in (_packed(_pictures(tmp_path / "a")), _zip(tmp_path / "b.zip", [("1/a.png", b"x" * 5000)])):
        data = archive.read_bytes()
        archive.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(InvalidInput, match="send it again"):
            _import(service, archive)


def test_what_is_no_archive_is_refused(service: DatasetService, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InvalidInput, match="zip or tar"):
        _import(service, tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b.png"])
def test_paths_that_point_outside_are_refused(service: DatasetService, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="points outside"):
        _import(service, _zip(tmp_path / "evil.zip", [(name, b"x")]))


def test_links_are_refused(service: DatasetService, tmp_path: Path) -> None:
    link = tarfile.TarInfo("3/passwd.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.addfile(link)
    with pytest.raises(InvalidInput, match="is a link"):
        _import(service, tmp_path / "evil.tar")


def test_a_bomb_is_refused(service: DatasetService, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"3/{number}.png", b"\0" * (30 << 20))
    with pytest.raises(InvalidInput, match="no archive of pictures"):
        _import(service, tmp_path / "bomb.zip")


def test_a_repeated_request_gets_the_first_answer(service: DatasetService, tmp_path: Path) -> None:
    archive = _packed(_pictures(tmp_path / "a"))
    first = service.import_archive("digits", archive, False, False, request_id="r1")
    assert service.import_archive("digits", tmp_path / "gone.tar", False, False, request_id="r1") == first


def test_hidden_files_of_other_systems_are_ignored(service: DatasetService, tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "a")
    files = [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in folder.rglob("*.png")]
    clutter = [("__MACOSX/3/._a.png", b"x"), ("3/.DS_Store", b"x"), ("3/Thumbs.db", b"x")]
    version = service.import_archive("digits", _zip(tmp_path / "mac.zip", [*files, *clutter]), False, False)
    assert not version.rejected


def test_a_folder_around_the_class_folders_does_no_harm(service: DatasetService, tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "a")
    files = [(f"photos/{path.relative_to(folder).as_posix()}", path.read_bytes()) for path in folder.rglob("*.png")]
    version = service.import_archive("digits", _zip(tmp_path / "nested.zip", files), False, False)
    assert version.classes == [str(digit) for digit in range(10)]


def test_packing_a_folder_that_is_missing_or_empty_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a folder"):
        pack_folder(tmp_path / "nowhere", tmp_path / "x.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="holds no files"):
        pack_folder(tmp_path / "empty", tmp_path / "x.tar")


def _sent(numbers: Iterable[int], classes: int = 3) -> list[Labelled]:
    return [Labelled(digest_of(str(n).encode()), str(n % classes), f"{n % classes}/{n}.png") for n in numbers]


@given(st.sets(st.integers(0, 500), max_size=60), st.sets(st.integers(0, 500), max_size=60))
def test_no_later_version_moves_a_picture(first: set[int], second: set[int]) -> None:
    known = rules.merge([], _sent(first), 1).samples
    later = {sample.digest: sample for sample in rules.merge(known, _sent(second), 2).samples}
    assert all(later[sample.digest] == sample for sample in known)


@given(st.permutations(list(range(30))))
def test_the_order_of_files_does_not_matter(order: list[int]) -> None:
    digest = rules.digest_of_version(rules.merge([], _sent(order), 1).samples)
    assert digest == rules.digest_of_version(rules.merge([], _sent(range(30)), 1).samples)


@given(st.sets(st.integers(0, 300), min_size=1, max_size=60))
def test_a_class_of_two_or_more_is_in_both_splits(numbers: set[int]) -> None:
    samples = rules.merge([], _sent(numbers), 1).samples
    for label in {sample.label for sample in samples}:
        group = [sample for sample in samples if sample.label == label]
        assert len(group) == 1 or len({sample.split for sample in group}) == 2


@given(st.sets(st.integers(0, 300), max_size=60), st.sets(st.integers(0, 300), min_size=1, max_size=60))
def test_a_replacement_moves_a_picture_only_for_a_class_that_lost_a_split(first: set[int], second: set[int]) -> None:
    before = {sample.digest: sample for sample in rules.merge([], _sent(first), 1).samples}
    after = rules.merge([], _sent(second), 2, list(before.values())).samples
    for label in {sample.label for sample in after}:
        group = [sample for sample in after if sample.label == label]
        assert len(group) == 1 or len({sample.split for sample in group}) == 2
        stayed = [sample for sample in group if sample.digest in before]
        moved = [sample for sample in stayed if sample.split != before[sample.digest].split]
        assert not moved or (len(moved) == 1 and len(stayed) == len(group))
        assert all(sample.added_in == (1 if sample.digest in before else 2) for sample in group)


def test_replacing_counts_only_pictures_that_were_not_there(service: DatasetService, tmp_path: Path) -> None:
    service.import_archive("digits", _packed(_pictures(tmp_path / "a")), False, False)
    second = service.import_archive("digits", _packed(_pictures(tmp_path / "b", 0, 70)), False, False)
    assert (second.number, second.added_count) == (2, 10)


def test_a_picture_that_is_labelled_anew_keeps_its_split_and_its_age() -> None:
    known = rules.merge([], _sent(range(30)), 1).samples
    wrong = known[0]
    sent = [Labelled(one.digest, one.label, one.path) for one in known if one != wrong]
    after = rules.merge([], [*sent, Labelled(wrong.digest, "other", "other/x.png")], 2, known).samples
    (found,) = [sample for sample in after if sample.digest == wrong.digest]
    assert (found.label, found.split, found.added_in) == ("other", wrong.split, 1)


def test_adding_a_known_picture_under_another_label_keeps_the_known_one() -> None:
    known = rules.merge([], _sent(range(30)), 1).samples
    merged = rules.merge(known, [Labelled(known[0].digest, "other", "other/x.png")], 2)
    assert merged.samples == known
    assert list(merged.refused) == ["other/x.png"] and known[0].path in merged.refused["other/x.png"]


def test_a_request_repeated_after_later_imports_still_gets_its_first_answer(
    service: DatasetService, tmp_path: Path
) -> None:
    archive = _packed(_pictures(tmp_path / "a"))
    first = service.import_archive("digits", archive, False, False, request_id="r1")
    # Equal content: answered with the version that is there.
    assert service.import_archive("digits", archive, False, False, request_id="r2") == first
    service.import_archive("digits", _packed(_pictures(tmp_path / "b", 60, 40)), True, False, request_id="r3")
    assert service.import_archive("digits", archive, False, False, request_id="r2") == first
    assert service.latest("digits").number == 2


def test_the_same_request_sent_twice_at_once_is_done_once(service: DatasetService, tmp_path: Path) -> None:
    archive = _packed(_pictures(tmp_path / "a"))
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(service.import_archive, "digits", archive, False, False, "r1") for _ in range(4)]
    assert {one.result().name for one in sent} == {"datasets/digits/versions/1"}
    assert len(service.versions("digits")[0]) == 1


def test_appending_a_new_class_keeps_the_old_ones(service: DatasetService, tmp_path: Path) -> None:
    service.import_archive("digits", _packed(_pictures(tmp_path / "a")), False, False)
    more = digits.load(known=80, later=1, live=1).known[60:]
    files = [(f"blank/{number}.png", picture.png) for number, picture in enumerate(more)]
    second = service.import_archive("digits", _zip(tmp_path / "more.zip", files), True, False)
    assert second.classes == [*(str(digit) for digit in range(10)), "blank"]
    assert second.class_counts["blank"] == 20 == second.added_count


def test_an_import_tells_how_far_it_is(service: DatasetService, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    archive = _packed(_pictures(tmp_path / "a"))
    service.import_archive("digits", archive, False, False, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 60) for number in range(1, 61)]


def test_the_same_version_gives_the_same_arrays(service: DatasetService, tmp_path: Path) -> None:
    service.import_archive("digits", _packed(_pictures(tmp_path / "a")), False, False)
    first, second = (
        service.write_training_data("datasets/digits/versions/1", 16, tmp_path / name) for name in ("one", "two")
    )
    with np.load(first) as one, np.load(second) as two:
        assert set(one.files) == {
            *(f"{k}_{s}" for k in ("x", "y", "added", "digests") for s in ("train", "val")),
            "classes",
        }
        assert all(np.array_equal(one[key], two[key]) for key in one.files)


def test_arrays_are_whole_or_missing(service: DatasetService, tmp_path: Path) -> None:
    service.import_archive("digits", _packed(_pictures(tmp_path / "a")), False, False)
    target = service.write_training_data("datasets/digits/versions/1", 16, tmp_path / "arrays")
    assert [path.name for path in target.parent.iterdir()] == ["data.npz"]
    assert io.BytesIO(target.read_bytes()).read(2) == b"PK"
