"""What results depend on, here: compared between hub and nodes before a job begins."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

_OURS = ("milonga", "milonga_compiler", "milonga_hub")
# What computes: other versions of it give other numbers.
_COMPUTE = ("torch", "numpy", "onnx", "onnxruntime")


@cache
def versions() -> dict[str, str]:
    """Return the version of each part by name; Milonga's is followed by a digest of its code."""
    found = {"milonga-hub": f"{_version('milonga-hub')} ({_code()})"}
    found["Python"] = ".".join(platform.python_version_tuple()[:2])
    return {**found, **{name: _version(name) for name in _COMPUTE}}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _code() -> str:
    digest = hashlib.sha256()
    for name in _OURS:
        spec = importlib.util.find_spec(name)
        for folder in map(Path, spec.submodule_search_locations or () if spec else ()):
            for path in sorted(folder.rglob("*.py")):
                digest.update(f"{name}/{path.relative_to(folder)}".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
