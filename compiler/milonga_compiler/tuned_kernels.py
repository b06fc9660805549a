"""The folder in which a tuning keeps what it learned: TVM's two JSON files, what for, and how far each kernel is."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from milonga_compiler.errors import TuningRefused
from milonga_compiler.files import write_atomically
from milonga_compiler.tuning import Kernel

WORKLOADS, RECORDS = "database_workload.json", "database_tuning_record.json"
_TARGET, _KERNELS, _LOCK = "target.json", "kernels.json", "lock"
# A kernel's fields that are the network's own, or that TVM's files tell.
_NOT_KEPT = ("key", "count", "best_ms")


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep others from tuning into the folder, which is made. Raises TuningRefused while another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TuningRefused(f"another tuning writes into {folder}; wait for it, or name another folder") from error
        yield


def check_target(folder: Path, target: Mapping[str, Any]) -> None:
    """Raise TuningRefused where the kernels in the folder are for other processors than the target's."""
    path = folder / _TARGET
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else target
    if known != dict(target):
        raise TuningRefused(f"{folder} holds kernels for {_said(known)}, not {_said(target)}; name another folder")


def keep_target(folder: Path, target: Mapping[str, Any]) -> None:
    """Keep what the kernels in the folder are compiled for."""
    _write(folder / _TARGET, dict(target))


def _said(target: Mapping[str, Any]) -> str:
    return " ".join(str(target[key]) for key in ("mtriple", "mcpu") if key in target)


def mend(folder: Path) -> None:
    """Cut off what a process that was killed while it wrote left half: a last line, and records without their kernel."""
    workloads = _mended(folder / WORKLOADS)
    records = _mended(folder / RECORDS)
    known = [line for line in records if json.loads(line)[0] < len(workloads)]
    if len(known) < len(records):
        write_atomically(folder / RECORDS, "".join(f"{line}\n" for line in known))


def _mended(path: Path) -> list[str]:
    """Return the file's whole lines, which are all that is left in it."""
    if not path.exists():
        return []
    text = path.read_bytes().decode(errors="replace")
    lines = [line for line in text.split("\n") if line]
    if lines and not _is_json(lines[-1]):
        lines = lines[:-1]
    whole = "".join(f"{line}\n" for line in lines)
    if whole != text:
        write_atomically(path, whole)
    return lines


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def read_kernels(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what is known of kernels by their key: the fields of a Kernel that are kept."""
    path = folder / _KERNELS
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def keep_kernels(folder: Path, kernels: tuple[Kernel, ...]) -> None:
    """Keep what a tuning learned of its kernels beside what others learned of theirs."""
    ours = {one.key: {k: v for k, v in vars(one).items() if k not in _NOT_KEPT} for one in kernels}
    _write(folder / _KERNELS, {**read_kernels(folder), **ours})


def _write(path: Path, said: Any) -> None:
    write_atomically(path, json.dumps(said, indent=1, sort_keys=True))
