"""What a power cut leaves: SIGKILL keeps what the kernel has in memory, so lost writes are replayed from a log of system calls.

One run of the story is written down by strace. A point is a prefix of that log, and for each file and folder a random part of
what no fsync had made last: data up to some byte, and names up to some change. Files and folders lose independently of each
other, which is less than any journal promises.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

_CALLS = "openat,open,creat,close,write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,sendfile,copy_file_range,symlink,symlinkat,truncate,dup,dup2,dup3,fcntl"
_LINE = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)")
_ARGUMENT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|([^,\s][^,]*)')


class Unknown(RuntimeError):
    """The log holds something that the model does not know: it would say too little."""


@dataclass
class _File:
    durable: bytes = b""
    # Writes at their offsets, and truncations to a length (data None), that no fsync made last.
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def content(self, kept: int, cut: float = 1.0) -> bytes:
        data = bytearray(self.durable)
        for index, (offset, written) in enumerate(self.pending[:kept]):
            if written is None:
                del data[offset:]
                continue
            # Of the last one, the disk may have a part.
            part = written if index < kept - 1 else written[: round(len(written) * cut)]
            data.extend(b"\0" * (offset - len(data)))
            data[offset : offset + len(part)] = part
        return bytes(data)


@dataclass(frozen=True)
class _Link:
    target: str


@dataclass
class _Folder:
    durable: dict[str, int] = field(default_factory=dict)
    # Names that came (an inode) or went (None).
    pending: list[dict[str, int | None]] = field(default_factory=list)

    def names(self, kept: int) -> dict[str, int]:
        names: dict[str, int | None] = dict(self.durable)
        for change in self.pending[:kept]:
            names.update(change)
        return {name: inode for name, inode in names.items() if inode is not None}


class Disk:
    """Files and folders below one folder, with what is durable of them and what is not."""

    def __init__(self, template: Path) -> None:
        self._inodes: dict[int, _File | _Folder | _Link] = {}
        linked: dict[int, int] = {}
        self.root = self._load(template, linked)
        # Descriptor -> inode, name of a folder, and position.
        self._open: dict[int, tuple[int, str]] = {}
        self._at: dict[int, int] = {}

    def _load(self, path: Path, linked: dict[int, int]) -> int:
        if path.is_symlink():
            return self._new(_Link(str(path.readlink())))
        if path.is_dir():
            return self._new(_Folder({each.name: self._load(each, linked) for each in sorted(path.iterdir())}))
        inode = path.stat().st_ino
        if inode not in linked:
            linked[inode] = self._new(_File(path.read_bytes()))
        return linked[inode]

    def _new(self, made: _File | _Folder | _Link) -> int:
        self._inodes[len(self._inodes)] = made
        return len(self._inodes) - 1

    def apply(self, call: str, arguments: list[str], result: int) -> None:
        """Do what a system call of the log did. Paths are relative to the root; others were left out."""
        if call == "open":
            self._opened(arguments[0], arguments[1], result)
        elif call in ("close", "fsync", "write", "ftruncate"):
            self._on_descriptor(call, int(arguments[0]), arguments[1:], result)
        elif call == "dup":
            inode, path = self._open[int(arguments[0])]
            if isinstance(self._inodes[inode], _File):
                raise Unknown(f"two descriptors of {path}")
            self._open[result] = (inode, path)
        elif call in ("rename", "link"):
            folder, name = self._parent(arguments[0])
            inode = folder.names(len(folder.pending))[name]
            into, new = self._parent(arguments[1])
            if call == "rename" and folder is into:
                # One folder's journal has both names in one change.
                folder.pending.append({name: None, new: inode})
                return
            into.pending.append({new: inode})
            if call == "rename":
                folder.pending.append({name: None})
        elif call in ("unlink", "rmdir"):
            folder, name = self._parent(arguments[0])
            folder.pending.append({name: None})
        elif call == "symlink":
            folder, name = self._parent(arguments[1])
            folder.pending.append({name: self._new(_Link(arguments[0]))})
        elif call == "mkdir":
            folder, name = self._parent(arguments[0])
            folder.pending.append({name: self._new(_Folder())})
        else:
            raise Unknown(call)

    def _opened(self, path: str, flags: str, descriptor: int) -> None:
        folder, name = self._parent(path) if path != "." else (None, "")
        if folder is None:
            inode = self.root
        else:
            names = folder.names(len(folder.pending))
            if name not in names:
                if "O_CREAT" not in flags:
                    raise Unknown(f"{path} was opened and is not there")
                folder.pending.append({name: self._new(_File())})
                names = folder.names(len(folder.pending))
            inode = names[name]
        found = self._inodes[inode]
        if isinstance(found, _File):
            if "O_TRUNC" in flags:
                found.pending.append((0, None))
            self._at[descriptor] = len(found.content(len(found.pending))) if "O_APPEND" in flags else 0
        self._open[descriptor] = (inode, path)

    def _on_descriptor(self, call: str, descriptor: int, arguments: list[str], result: int) -> None:
        if descriptor not in self._open:
            return
        inode, _ = self._open[descriptor]
        found = self._inodes[inode]
        if call == "close":
            del self._open[descriptor]
        elif call == "fsync" and isinstance(found, _File):
            found.durable, found.pending = found.content(len(found.pending)), []
        elif call == "fsync" and isinstance(found, _Folder):
            found.durable, found.pending = found.names(len(found.pending)), []
        elif call == "ftruncate" and isinstance(found, _File):
            found.pending.append((int(arguments[0]), None))
        elif call == "write" and isinstance(found, _File):
            data = bytes.fromhex(arguments[0].replace("\\x", ""))[:result]
            found.pending.append((self._at[descriptor], data))
            self._at[descriptor] += result

    def _parent(self, path: str) -> tuple[_Folder, str]:
        parts = PurePosixPath(path).parts
        inode = self.root
        for part in parts[:-1]:
            folder = self._inodes[inode]
            assert isinstance(folder, _Folder)
            inode = folder.names(len(folder.pending))[part]
        folder = self._inodes[inode]
        assert isinstance(folder, _Folder)
        return folder, parts[-1]

    def crash(self, folder: Path, source: random.Random) -> None:
        """Write what a power cut now could leave, decided by the source."""
        kept = {
            inode: source.randrange(len(found.pending) + 1) if source.random() < 0.8 else len(found.pending)
            for inode, found in self._inodes.items()
            if not isinstance(found, _Link)
        }
        self._write(self.root, folder, kept, source, {})

    def _write(
        self, inode: int, path: Path, kept: dict[int, int], source: random.Random, linked: dict[int, Path]
    ) -> None:
        found = self._inodes[inode]
        if inode in linked:
            os.link(linked[inode], path)
        elif isinstance(found, _Link):
            path.symlink_to(found.target)
        elif isinstance(found, _File):
            path.write_bytes(found.content(kept[inode], source.random()))
            linked[inode] = path
        else:
            path.mkdir(exist_ok=True)
            for name, each in sorted(found.names(kept[inode]).items()):
                self._write(each, path / name, kept, source, linked)


def record(folder: Path, command: list[str], log: Path) -> list[tuple[str, list[str], int]]:
    """Run the command under strace and return the calls that changed something below the folder, paths relative to it."""
    subprocess.run(
        ["strace", "-f", "-qq", "-xx", "-s", "1000000", "-e", "signal=none", "-e", f"trace={_CALLS}", "-o", str(log), *command],
        check=True, stdout=sys.stderr,
    )  # fmt: skip
    return list(_parsed(log.read_text(encoding="ascii").splitlines(), str(folder)))


def _parsed(lines: list[str], root: str) -> Iterator[tuple[str, list[str], int]]:
    paths: dict[int, str] = {}
    for line in lines:
        match = _LINE.match(line.partition(" ")[2].lstrip())
        if match is None or int(match[3]) < 0:
            continue
        call, result = match[1], int(match[3])
        arguments = [
            bytes.fromhex(quoted.replace("\\x", "")).decode("utf-8", "surrogateescape") if bare == "" and call != "write" else (quoted or bare)
            for quoted, bare in _ARGUMENT.findall(match[2])
        ]  # fmt: skip
        yield from _relative(call, arguments, result, root, paths)


def _relative(
    call: str, arguments: list[str], result: int, root: str, paths: dict[int, str]
) -> Iterator[tuple[str, list[str], int]]:
    def place(at: str, path: str) -> str:
        return os.path.normpath(Path(paths.get(int(at), "/?") if at.isdigit() else "/") / path)

    def inside(*named: str) -> list[str]:
        below = [os.path.relpath(path, root) for path in named if path == root or path.startswith(root + "/")]
        if below and len(below) < len(named):
            raise Unknown(f"{call} of {named} leaves the folder")
        return below

    if call in ("openat", "open"):
        at, path, flags = arguments[:3] if call == "openat" else ("", arguments[0], arguments[1])
        full = place(at, path)
        if inside(full):
            paths[result] = full
            yield "open", [os.path.relpath(full, root), flags], result
    elif call in ("close", "fsync", "fdatasync", "write", "ftruncate"):
        if int(arguments[0]) in paths:
            yield ("fsync" if call == "fdatasync" else call), arguments, result
        if call == "close":
            paths.pop(int(arguments[0]), None)
    elif call in ("rename", "link"):
        if found := inside(place("", arguments[0]), place("", arguments[1])):
            yield call, found, result
    elif call in ("renameat", "renameat2", "linkat"):
        if found := inside(place(arguments[0], arguments[1]), place(arguments[2], arguments[3])):
            yield ("link" if call == "linkat" else "rename"), found, result
    elif call == "symlink":
        if found := inside(place("", arguments[1])):
            yield call, [arguments[0], *found], result
    elif call in ("unlink", "rmdir", "mkdir"):
        if found := inside(place("", arguments[0])):
            yield call, found, result
    elif call in ("unlinkat", "mkdirat"):
        if found := inside(place(arguments[0], arguments[1])):
            removed = "rmdir" if "AT_REMOVEDIR" in arguments[-1] else "unlink"
            yield (removed if call == "unlinkat" else "mkdir"), found, result
    elif call == "fcntl" or call.startswith("dup"):
        if int(arguments[0]) in paths and "DUP" in "".join((call.upper(), *arguments)):
            paths[result] = paths[int(arguments[0])]
            yield "dup", arguments, result
    elif any(root in argument for argument in arguments) or (
        arguments and arguments[0].isdigit() and int(arguments[0]) in paths
    ):
        raise Unknown(call)
