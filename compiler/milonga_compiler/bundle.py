"""A bundle: a folder with manifest.json and the files that it names, addressed by the digest of the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from milonga_compiler.errors import BundleInvalid, CompilerError, is_full

FORMAT = 1
MANIFEST = "manifest.json"
# What a device checks itself with before it serves.
PROBE_INPUT, PROBE_EXPECTED = "probe_input.npy", "probe_expected.npy"
# Files that describe and prove a build; all others are the engine's.
BESIDE_THE_MODEL = (MANIFEST, PROBE_INPUT, PROBE_EXPECTED)

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


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
    # A colon is a drive or a stream on Windows, where the same bundles may be unpacked.
    outside = parts.is_absolute() or ".." in parts.parts or any(sign in path for sign in "\\:\0")
    if outside or str(parts) != path or path in ("", "."):
        raise BundleInvalid(f"{path!r} is not a path inside a bundle")
    return path


def write_bundle(folder: Path, manifest: Mapping[str, Any], sources: Mapping[str, Path]) -> Bundle:
    """Write the manifest and copies of the sources (by path inside the bundle); the folder appears whole or not at all.

    Equal inputs give equal bytes: the manifest is sorted and holds no time. Whatever was at `folder` is replaced.
    Raises BundleInvalid where the manifest is no JSON or names files that are not among the sources.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=str(folder.parent), prefix=".bundle-"))
    try:
        temporary.chmod(0o755)  # mkdtemp keeps others out; a bundle is read by other users, such as a service's.
        files = [_copy(source, temporary, checked_path(path)) for path, source in sorted(sources.items())]
        whole = {**manifest, "format": FORMAT, "files": [vars(file) for file in files]}
        _write(temporary / MANIFEST, _encoded(whole))
        read_bundle(temporary)
        _sync_folders(temporary)
        _put(temporary, folder)
    except BaseException:
        shutil.rmtree(str(temporary), ignore_errors=True)
        raise
    return read_bundle(folder)


def demand_place(folder: Path) -> None:
    """Raise CompilerError where no bundle can be written to the folder, or something else would be lost by it."""
    if folder.is_file():
        raise CompilerError(f"{folder} is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise CompilerError(f"{folder} has something in it that is no bundle; name a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(folder.parent)):
            pass
    except OSError as error:
        if is_full(error):
            raise
        raise CompilerError(
            f"{folder} cannot be written ({error.strerror}); name a folder where you may write"
        ) from error


def read_bundle(folder: Path) -> Bundle:
    """Return the bundle without looking into its files. Raises BundleInvalid where the manifest is missing or broken."""
    path = folder / MANIFEST
    if not path.exists():
        raise BundleInvalid(f"{folder} is no bundle: it has no {MANIFEST}; name the folder that a build wrote")
    try:
        data = path.read_bytes()
        manifest = json.loads(data)
        if not isinstance(manifest, dict):
            raise TypeError("it is not an object")
        if manifest.get("format") != FORMAT:
            raise BundleInvalid(f"{path} has format {manifest.get('format')!r}; this version reads {FORMAT}")
        listed = [_listed(item) for item in manifest["files"]]
        _check_names(manifest, [file.path for file in listed])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleInvalid(f"{path} is not the manifest of a bundle: {error}") from error
    own = BundleFile(MANIFEST, "sha256:" + hashlib.sha256(data).hexdigest(), len(data))
    return Bundle(folder, own.digest, manifest, [*listed, own])


def verify_bundle(folder: Path) -> Bundle:
    """Return the bundle if every file is what the manifest says. Raises BundleInvalid naming the one that is not."""
    bundle = read_bundle(folder)
    for file in bundle.files:
        path = folder / file.path
        if path.is_symlink() or not _inside(path, folder):
            raise BundleInvalid(f"{path} is a link; a bundle holds its files itself")
        if not path.is_file():
            raise BundleInvalid(f"{path} is missing; fetch it again")
        if path.stat().st_size != file.size_bytes or _digest(path) != file.digest:
            raise BundleInvalid(f"{path} is not the file that the manifest names; fetch it again")
    return bundle


def _listed(item: Mapping[str, Any]) -> BundleFile:
    path, digest, size_bytes = item["path"], item["digest"], item["size_bytes"]
    if not isinstance(path, str) or not isinstance(digest, str) or type(size_bytes) is not int:
        raise TypeError(f"a file is described as {item!r}")
    if not _DIGEST.fullmatch(digest) or size_bytes < 0:
        raise ValueError(f"{path} has the digest {digest!r} and {size_bytes} bytes")
    return BundleFile(checked_path(path), digest, size_bytes)


def _check_names(manifest: Mapping[str, Any], paths: list[str]) -> None:
    """Raise BundleInvalid where a file is listed twice, or one that the manifest relies on is not listed."""
    if len({*paths, MANIFEST}) != len(paths) + 1:
        raise BundleInvalid(f"the manifest lists a file twice, or itself, in {sorted(paths)}")
    needing = [manifest, *manifest.get("fallbacks", [])]
    probes = [one.get("probe") or {} for one in needing]
    wanted = [one.get("model_file") for one in needing]
    wanted += [probe.get(key) for probe in probes for key in ("input_file", "expected_file")]
    built_of = manifest.get("device_build") or {}
    # Empty where there is nothing to calibrate on.
    proof = built_of.get("proof") or {}
    wanted += [built_of.get("calibration_file") or None, proof.get("input_file"), proof.get("decisions_file")]
    for needed in wanted:
        if needed is not None and needed not in paths:
            raise BundleInvalid(f"the manifest needs {needed!r} and does not list it among its files")


def _encoded(manifest: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode("utf-8")
    except (TypeError, ValueError) as error:
        raise BundleInvalid(f"the manifest cannot be written as JSON: {error}") from error


def _copy(source: Path, folder: Path, path: str) -> BundleFile:
    data = source.read_bytes()
    _write(folder / path, data)
    return BundleFile(path, "sha256:" + hashlib.sha256(data).hexdigest(), len(data))


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _put(temporary: Path, folder: Path) -> None:
    """Rename the finished folder into place. An older one is moved aside first, since a rename never replaces it."""
    aside = Path(tempfile.mkdtemp(dir=str(folder.parent), prefix=".bundle-"))
    try:
        if folder.exists():
            folder.replace(aside / "old")
        temporary.replace(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(str(aside), ignore_errors=True)


def _sync_folders(top: Path) -> None:
    for path in [top, *(path for path in top.rglob("*") if path.is_dir())]:
        _sync(path)


def _sync(folder: Path) -> None:
    descriptor = os.open(str(folder), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _digest(path: Path) -> str:
    """Return the digest of a file that may be larger than the memory."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""):
            found.update(chunk)
    return "sha256:" + found.hexdigest()
