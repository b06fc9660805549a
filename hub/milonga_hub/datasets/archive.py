"""Read archives of class folders, which may come from anyone, without believing anything that they say."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from milonga_hub.errors import InvalidInput

# Pictures are compressed already: an archive that grows tenfold is none of pictures.
MAX_GROWTH = 20
MAX_MEMBER_BYTES = 256 << 20
MAX_MEMBERS = 5_000_000

_IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Member:
    """One file of an archive: its label is the folder that it lies in."""

    path: str
    label: str
    data: bytes


@dataclass(frozen=True)
class Contents:
    """Folders with a class name, empty ones included, and how many files there are."""

    classes: frozenset[str]
    file_count: int


class Archive:
    """An open archive. Files are read one at a time, so that only one picture is in memory."""

    def __init__(self, source: zipfile.ZipFile | tarfile.TarFile, size_bytes: int) -> None:
        self._source = source
        self._budget = max(size_bytes * MAX_GROWTH, 64 << 20)
        self._files: list[tuple[str, zipfile.ZipInfo | tarfile.TarInfo]] = []
        folders: set[str] = set()
        for name, is_folder, info in self._members():
            if _hidden(name):
                continue
            if is_folder:
                folders.add(name)
            elif not _regular(info):
                raise InvalidInput(f"{name} in the archive is a link or a device; send plain files only")
            else:
                self._files.append((name, info))
            if len(self._files) > MAX_MEMBERS:
                raise InvalidInput(f"the archive has more than {MAX_MEMBERS:,} files; send it in parts with --append")
        holding = {str(PurePosixPath(name).parent) for name, _ in self._files}
        leaves = {
            folder for folder in folders if not any(other.startswith(f"{folder}/") for other in folders | holding)
        }
        self.contents = Contents(
            frozenset(_class_of(f"{folder}/x") for folder in leaves | holding if folder != "."), len(self._files)
        )

    def _members(self) -> Iterator[tuple[str, bool, zipfile.ZipInfo | tarfile.TarInfo]]:
        if isinstance(self._source, zipfile.ZipFile):
            for item in self._source.infolist():
                yield _safe(item.filename), item.is_dir(), item
        else:
            for member in self._source:
                yield _safe(member.name), member.isdir(), member

    def files(self) -> Iterator[Member]:
        """Yield the files. Raises InvalidInput where the archive is broken or grows beyond all reason."""
        left = self._budget
        for name, info in self._files:
            data = self._read(name, info, min(left, MAX_MEMBER_BYTES))
            left -= len(data)
            yield Member(name, _class_of(name), data)

    def _read(self, name: str, info: zipfile.ZipInfo | tarfile.TarInfo, limit: int) -> bytes:
        try:
            with self._open(info) as file:
                data = file.read(limit + 1)
        except (
            zipfile.BadZipFile,
            tarfile.TarError,
            EOFError,
            OSError,
            zlib.error,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise InvalidInput(f"the archive is damaged at {name}: {error}; send it again") from error
        if len(data) > limit:
            raise InvalidInput(f"{name} unpacks to more than {limit:,} bytes; this is no archive of pictures")
        return data

    def _open(self, info: zipfile.ZipInfo | tarfile.TarInfo) -> IO[bytes]:
        if isinstance(self._source, zipfile.ZipFile):
            assert isinstance(info, zipfile.ZipInfo)
            return self._source.open(info)
        assert isinstance(info, tarfile.TarInfo)
        file = self._source.extractfile(info)
        assert file is not None, "only regular files are kept"
        return file


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip or tar archive, compressed or not. Raises InvalidInput for anything else, also for half of one."""
    size = path.stat().st_size
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as source:
                yield Archive(source, size)
            return
        with tarfile.open(path) as tar:
            yield Archive(tar, size)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error) as error:
        raise InvalidInput(
            "the upload is not a whole zip or tar archive; it may have been cut off on the way, send it again"
        ) from error


def pack_folder(folder: Path, archive: Path) -> int:
    """Write a folder of class folders into a tar archive and return how many files it has.

    Raises InvalidInput where the folder is missing or holds nothing.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder; give the one that holds a folder for each class")
    count = 0
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if _hidden(name):
                continue
            if path.is_dir() or path.is_file():
                tar.add(path.resolve(), arcname=name, recursive=False)
                count += path.is_file()
    if not count:
        raise InvalidInput(f"{folder} holds no files; it must have one folder of pictures for each class")
    return count


def _safe(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise InvalidInput(f"{name!r} in the archive points outside of it; send plain class folders")
    return str(path)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part in _IGNORED for part in PurePosixPath(name).parts if part != ".")


def _regular(info: zipfile.ZipInfo | tarfile.TarInfo) -> bool:
    if isinstance(info, zipfile.ZipInfo):
        # The upper half holds the Unix mode; 0xA000 marks a symbolic link.
        return (info.external_attr >> 16) & 0xF000 != 0xA000
    return info.isreg()


def _class_of(path: str) -> str:
    folder = PurePosixPath(path).parent.name
    if not folder:
        raise InvalidInput(f"{path} lies outside of any class folder; lay it in a folder named like its class")
    return folder
