"""Read archives of pictures, which may come from anyone, without believing anything that they say."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from milonga_hub.errors import InvalidInput

# Pictures are compressed already: an archive that grows so many times is none of pictures.
MAX_GROWTH = 20
MAX_MEMBER_BYTES = 256 << 20
_LEAST_BUDGET_BYTES = 64 << 20
MAX_MEMBERS = 5_000_000
_MAX_DESCRIPTION_BYTES = 16 << 20

_IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini")

# What the readers of zip, tar and their compressions raise for bytes that they cannot make sense of.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
_CUT_OFF = "the upload is not a whole zip or tar archive; it may have been cut off on the way, send it again"


@dataclass(frozen=True)
class Member:
    """One file of an archive."""

    path: str
    data: bytes

    @property
    def label(self) -> str:
        """Return the folder that it lies in, which names its class. Raises InvalidInput where it lies in none."""
        return _class_of(self.path)


@dataclass(frozen=True)
class Contents:
    """Folders with a class name, empty ones included, and how many files there are."""

    classes: frozenset[str]
    file_count: int


class Archive:
    """An open archive. Files are read one at a time, so that only one picture is in memory."""

    def __init__(self, source: zipfile.ZipFile | tarfile.TarFile, budget_bytes: int) -> None:
        self._source = source
        self._budget = budget_bytes
        self._files: list[tuple[str, zipfile.ZipInfo | tarfile.TarInfo]] = []
        self._by_name: dict[str, zipfile.ZipInfo | tarfile.TarInfo] = {}
        # Files that were read as a stream, which `files` leaves out.
        self.were_read: set[str] = set()
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
                # Not is_dir(): it fails on a name that is empty.
                yield _safe(item.filename), item.filename.endswith("/"), item
        else:
            for member in self._source:
                yield _safe(member.name), member.isdir(), member
            _check_end(self._source)

    def files(self) -> Iterator[Member]:
        """Yield the files. Raises InvalidInput where the archive is broken or grows beyond all reason."""
        left = self._budget
        for name, info in self._files:
            if name in self.were_read:
                continue
            data = self._read(name, info, min(left, MAX_MEMBER_BYTES))
            left -= len(data)
            yield Member(name, data)

    @contextmanager
    def stream(self, name: str, limit: int) -> Iterator[IO[bytes]]:
        """Open one file to be read piece by piece. Raises InvalidInput where it is damaged or grows beyond the limit."""
        try:
            with self._open(self._of(name)) as file:
                yield cast(IO[bytes], _Limited(name, file, min(limit, self._budget)))
        except _DAMAGED as error:
            raise InvalidInput(f"the archive is damaged at {name}: {error}; send it again") from error

    @property
    def names(self) -> list[str]:
        """Return the paths of all files."""
        return [name for name, _ in self._files]

    def read(self, name: str, limit: int = _MAX_DESCRIPTION_BYTES) -> bytes:
        """Return one file out of turn, which must be a small one: a description, never a picture."""
        return self._read(name, self._of(name), min(limit, self._budget))

    def _of(self, name: str) -> zipfile.ZipInfo | tarfile.TarInfo:
        if not self._by_name:
            self._by_name = dict(self._files)
        return self._by_name[name]

    def _read(self, name: str, info: zipfile.ZipInfo | tarfile.TarInfo, limit: int) -> bytes:
        try:
            with self._open(info) as file:
                data = file.read(limit + 1)
        except _DAMAGED as error:
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


class _Limited:
    """A file of an archive of which no more than `limit` bytes are read."""

    def __init__(self, name: str, file: IO[bytes], limit: int) -> None:
        self._name = name
        self._file = file
        self._limit = self._left = limit

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise InvalidInput(f"{self._name} unpacks to more than {self._limit:,} bytes; send its data set in parts")
        return data


class _Bounded:
    """A file of which no more than `limit` bytes can be unpacked, whatever the headers inside of it ask for."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file = file
        self._limit = limit

    def read(self, size: int) -> bytes:
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        self._check(offset)
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def _check(self, end: int) -> None:
        if end > self._limit:
            raise InvalidInput(
                f"the archive unpacks to more than {self._limit:,} bytes; this is no archive of pictures"
            )


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a zip or tar archive, compressed or not. Raises InvalidInput for anything else, also for half of one."""
    size_bytes = path.stat().st_size
    budget = max(size_bytes * MAX_GROWTH, _LEAST_BUDGET_BYTES)
    with ExitStack() as stack:
        try:
            source: zipfile.ZipFile | tarfile.TarFile
            if zipfile.is_zipfile(path):
                source = stack.enter_context(zipfile.ZipFile(path))
            else:
                file = stack.enter_context(_decompressed(path))
                # Not tarfile's own r:*, which reads whatever a header inside of a bomb declares.
                bounded: Any = _Bounded(file, budget)
                source = stack.enter_context(tarfile.open(fileobj=bounded, mode="r:"))
            archive = Archive(source, budget)
        except _DAMAGED as error:
            raise InvalidInput(_CUT_OFF) from error
        yield archive


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(6)
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
    for magic, opener in openers.items():
        if start.startswith(magic):
            opened: IO[bytes] = opener(path)
            return opened
    return path.open("rb")


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise InvalidInput where the files do not end in the block of zeros that every whole tar has.

    tarfile takes the end of the file, or a header that it cannot read, for the end of the archive: an upload that was
    cut off between two pictures would pass with half of them.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise InvalidInput(_CUT_OFF)
    # The checksum of a compression stands at its very end.
    while tar.fileobj.read(tarfile.BLOCKSIZE):
        pass


def pack_folder(folder: Path, archive: Path) -> int:
    """Write a folder of pictures into a tar archive and return how many files it has.

    Raises InvalidInput where the folder is missing or holds nothing.
    """
    if not folder.is_dir():
        raise InvalidInput(
            f"{folder} is not a folder; give the one that holds a folder for each class, or a labelled set"
        )
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
        raise InvalidInput(
            f"{folder} holds no files; lay one folder of pictures for each class there, or pictures with their label files"
        )
    return count


def holds_class(name: str) -> bool:
    """Whether pictures of a class of this name come back as its own from a folder of this name."""
    path = f"folder/{name}/x"
    try:
        return _safe(path) == path and not _hidden(path) and path.count("/") == 2 and _class_of(path) == name
    except InvalidInput:
        return False


def _safe(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise InvalidInput(f"{name!r} in the archive points outside of it; send plain class folders")
    if _unspeakable(str(path.parent)):
        raise InvalidInput(f"the folder {str(path.parent)!r} is not named in UTF-8 text; rename it and send it again")
    return "".join(ascii(one)[1:-1] if _unspeakable(one) else one for one in str(path))


def _unspeakable(text: str) -> bool:
    """Control characters, and bytes that are no UTF-8 (which Python shows as lone surrogates)."""
    return any(unicodedata.category(one) in ("Cc", "Cs") for one in text)


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
    # macOS writes an accent as a character of its own, others do not: one class must not become two.
    return unicodedata.normalize("NFC", folder)
