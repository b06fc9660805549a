"""A bundle: a folder with manifest.json and the files that it names, addressed by the digest of the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from milonga_compiler.errors import BundleInvalid

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class BundleFile:
    """One file: `path` with forward slashes, inside the bundle."""

    path: str
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. `digest` is the SHA-256 of manifest.json; `files` includes the manifest."""

    folder: Path
    digest: str
    manifest: dict[str, Any]
    files: list[BundleFile]


def checked_path(path: str) -> str:
    """Return the path if it stays inside its bundle. Raises BundleInvalid for anything absolute, empty or with ".."."""
    parts = PurePosixPath(path)
    outside = parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path
    if outside or str(parts) != path or path in ("", "."):
        raise BundleInvalid(f"{path!r} is not a path inside a bundle")
    return path


def write_bundle(folder: Path, manifest: Mapping[str, Any], sources: Mapping[str, Path]) -> Bundle:
    """Write the manifest and copies of the sources (by path inside the bundle); replaces the folder in one step.

    Equal inputs give equal bytes: the manifest is sorted and holds no time.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=str(folder.parent), prefix=".bundle-"))
    try:
        files = [_copy(source, temporary, checked_path(path)) for path, source in sorted(sources.items())]
        whole = {**manifest, "format": FORMAT, "files": [vars(file) for file in files]}
        text = json.dumps(whole, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        _write(temporary / MANIFEST, text.encode("utf-8"))
        if folder.exists():
            shutil.rmtree(str(folder))
        temporary.replace(folder)
    except BaseException:
        shutil.rmtree(str(temporary), ignore_errors=True)
        raise
    return read_bundle(folder)


def read_bundle(folder: Path) -> Bundle:
    """Return the bundle without looking into its files. Raises BundleInvalid where the manifest is missing or broken."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        manifest = json.loads(data)
        listed = [
            BundleFile(checked_path(item["path"]), item["digest"], item["size_bytes"]) for item in manifest["files"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleInvalid(f"{path} is not the manifest of a bundle: {error}") from error
    if manifest.get("format") != FORMAT:
        raise BundleInvalid(f"{path} has format {manifest.get('format')!r}; this version reads {FORMAT}")
    own = BundleFile(MANIFEST, _digest(data), len(data))
    return Bundle(folder, own.digest, manifest, [*listed, own])


def verify_bundle(folder: Path) -> Bundle:
    """Return the bundle if every file is what the manifest says. Raises BundleInvalid naming the one that is not."""
    bundle = read_bundle(folder)
    for file in bundle.files:
        path = folder / file.path
        if not path.is_file():
            raise BundleInvalid(f"{path} is missing")
        if path.stat().st_size != file.size_bytes or _digest(path.read_bytes()) != file.digest:
            raise BundleInvalid(f"{path} is not the file that the manifest names; fetch it again")
    return bundle


def _copy(source: Path, folder: Path, path: str) -> BundleFile:
    data = source.read_bytes()
    _write(folder / path, data)
    return BundleFile(path, _digest(data), len(data))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
