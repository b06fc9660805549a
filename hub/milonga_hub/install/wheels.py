"""Wheels of the agent and its protocol, made from what is installed beside the hub: docs/adr/0012-wheels-of-the-agent.md."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

from milonga_hub.errors import FailedPrecondition

# Distribution -> the package that it installs.
SERVED = {"milonga-agent": "milonga_agent", "milonga-protos": "milonga"}
# Equal files must give equal bytes: zip's earliest date.
_DATE = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16
# What says how a package came onto this machine, and not what it is.
_LOCAL_METADATA = frozenset(["RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"])


@dataclass(frozen=True)
class Wheel:
    """A wheel in memory, with the name that pip knows it by."""

    distribution: str
    file_name: str
    content: bytes

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def wheel_of(distribution: str) -> Wheel:
    """Return a wheel of an installed distribution, editable ones included; the same files give the same bytes.

    Raises FailedPrecondition where the distribution is not installed.
    """
    package = SERVED[distribution]
    try:
        installed = metadata.distribution(distribution)
    except metadata.PackageNotFoundError as error:
        raise FailedPrecondition(
            f"{distribution} is not installed beside the hub, so that devices cannot get it from here; run on the hub:"
            f" pip install {distribution}"
        ) from error
    stem = f"{distribution.replace('-', '_')}-{installed.version}"
    files = dict(_package_files(package))
    files.update((f"{stem}.dist-info/{name}", content) for name, content in _metadata_files(installed))
    return Wheel(distribution, f"{stem}-py3-none-any.whl", _packed(files, f"{stem}.dist-info/RECORD"))


def _package_files(package: str) -> Iterator[tuple[str, bytes]]:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise FailedPrecondition(f"the files of {package} cannot be found; install it again on the hub")
    folder = Path(found.origin).parent
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            yield path.relative_to(folder.parent).as_posix(), path.read_bytes()


def _metadata_files(installed: metadata.Distribution) -> Iterator[tuple[str, bytes]]:
    for path in sorted(installed.files or ()):
        folder, _, name = path.as_posix().partition(".dist-info/")
        if name and "/" not in folder and name not in _LOCAL_METADATA:
            yield name, path.read_binary()


def _packed(files: dict[str, bytes], record: str) -> bytes:
    """Return a wheel with its RECORD (packaging.python.org/en/latest/specifications/binary-distribution-format)."""
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip('=')},{len(content)}"
        for name, content in files.items()
    ]
    files = {**files, record: "\n".join([*lines, f"{record},,", ""]).encode()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = _MODE
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return packed.getvalue()
