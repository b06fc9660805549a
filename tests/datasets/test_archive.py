"""An archive may come from anyone: whatever is wrong with it is said, and nothing else happens."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from milonga_hub.datasets.archive import Archive, open_archive, pack_folder
from milonga_hub.errors import InvalidInput
from PIL import Image

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}


def _png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 255 - shade, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def _tar(files: dict[str, bytes], **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


FILES = {f"{number % 2}/{number}.png": _png(number * 20) for number in range(10)}
WHOLE = {"zip": _zip(FILES)} | {name: compress(_tar(FILES)) for name, compress in COMPRESSIONS.items()}


def _read(folder: Path, data: bytes, then: Callable[[Archive], object] = lambda archive: None) -> dict[str, bytes]:
    path = folder / "archive"
    path.write_bytes(data)
    with open_archive(path) as archive:
        then(archive)
        return {member.path: member.data for member in archive.files()}


@pytest.mark.parametrize("kind", WHOLE)
def test_every_kind_of_archive_is_read_whole(tmp_path: Path, kind: str) -> None:
    assert _read(tmp_path, WHOLE[kind]) == FILES


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("tenth", range(10))
def test_a_part_of_an_archive_is_never_taken_for_the_whole(tmp_path: Path, kind: str, tenth: int) -> None:
    # The last block of zeros is padding; a tar that lost only padding has all its pictures.
    data = WHOLE[kind].rstrip(b"\0") if kind == "tar" else WHOLE[kind]
    with pytest.raises(InvalidInput, match="send it again"):
        _read(tmp_path, data[: len(data) * tenth // 10])


def test_a_tar_that_was_cut_off_between_two_pictures_is_refused(tmp_path: Path) -> None:
    # Each picture takes a header and a block; tarfile itself sees nothing wrong here.
    with pytest.raises(InvalidInput, match="cut off on the way"):
        _read(tmp_path, WHOLE["tar"][: 6 * tarfile.BLOCKSIZE])


@pytest.mark.parametrize("kind", WHOLE)
def test_damaged_bytes_give_clear_words_or_pictures_but_never_a_crash(tmp_path: Path, kind: str) -> None:
    chance = random.Random(kind)
    for _ in range(150):
        data = bytearray(WHOLE[kind])
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            _read(tmp_path, bytes(data))
        except InvalidInput as error:
            assert str(error)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000))
def test_noise_is_no_archive(tmp_path: Path, noise: bytes) -> None:
    with pytest.raises(InvalidInput):
        _read(tmp_path, noise)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["zip", "tar"]))
def test_no_name_leads_outside_or_hides_what_it_is(tmp_path: Path, parts: list[str], kind: str) -> None:
    files = {"/".join(parts): b"x"}
    try:
        with_labels = _labels(tmp_path, _zip(files) if kind == "zip" else _tar(files))
    except InvalidInput:
        return
    for path, label in with_labels.items():
        assert ".." not in Path(path).parts and not path.startswith("/")
        assert label and not any(unicodedata.category(one) in ("Cc", "Cs") for one in path + label)


def _labels(folder: Path, data: bytes) -> dict[str, str]:
    (folder / "archive").write_bytes(data)
    with open_archive(folder / "archive") as archive:
        return {member.path: member.label for member in archive.files()}


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    data = _tar({"caf\udce9/a.png": b"x"}, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InvalidInput, match=r"'caf\\udce9' is not named in UTF-8"):
        _read(tmp_path, data)


def test_an_accent_written_in_two_ways_is_one_class(tmp_path: Path) -> None:
    labels = _labels(tmp_path, _zip({"cafe\u0301/a.png": b"a", "caf\u00e9/b.png": b"b"}))
    assert set(labels.values()) == {"caf\u00e9"}


@pytest.mark.parametrize("compress", ["tar.gz", "tar.bz2", "tar.xz"])
def test_a_compressed_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, compress: str) -> None:
    member = tarfile.TarInfo("3/bomb.png")
    member.size = 1 << 40
    data = COMPRESSIONS[compress](member.tobuf() + bytes(1 << 20))
    with pytest.raises(InvalidInput, match="no archive of pictures"):
        _read(tmp_path, data)


def test_a_header_that_claims_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 8 << 30
    with pytest.raises(InvalidInput, match="no archive of pictures"):
        _read(tmp_path, gzip.compress(name.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16)))


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_anything_but_a_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("3/a.png")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(InvalidInput, match="send plain files only"):
        _read(tmp_path, member.tobuf() + bytes(1024))


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("3/passwd.png")
    link.external_attr = 0xA1FF << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InvalidInput, match="is a link"):
        _read(tmp_path, buffer.getvalue())


def test_a_picture_outside_of_any_class_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"stray\.png lies outside of any class folder"):
        _labels(tmp_path, _zip({**FILES, "stray.png": b"x"}))


def test_an_error_while_pictures_are_used_stays_what_it_is(tmp_path: Path) -> None:
    def fail(archive: Archive) -> None:
        raise OSError("the disk of the caller")

    with pytest.raises(OSError, match="the disk of the caller"):
        _read(tmp_path, WHOLE["zip"], fail)


def test_a_packed_folder_keeps_empty_classes_and_leaves_hidden_files_out(tmp_path: Path) -> None:
    for name in ("photos/cat/a.png", "photos/cat/.DS_Store", "photos/.git/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "photos" / "dog").mkdir()
    assert pack_folder(tmp_path / "photos", tmp_path / "out.tar") == 1
    with open_archive(tmp_path / "out.tar") as archive:
        assert archive.contents.classes == {"cat", "dog"}
        assert [member.path for member in archive.files()] == ["cat/a.png"]
