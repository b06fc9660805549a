"""Hand a build out as one zip file: the bundle, and a program that runs it."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from milonga_compiler.errors import CompilerError
from milonga_compiler.examples import example

from milonga_hub.builds.service import BuildService
from milonga_hub.errors import FailedPrecondition

EXAMPLE = "example.py"
# Zip files know no time before 1980; a fixed one gives equal bytes for equal bundles.
_TIME = (1980, 1, 1, 0, 0, 0)


def pack(builds: BuildService, name: str, path: Path) -> None:
    """Write the zip file of a build. Raises FailedPrecondition where it has no bundle."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        pack_bundle(_unpacked(builds, name, Path(scratch)), path)


def pack_bundle(folder: Path, path: Path) -> None:
    """Write the zip file of a bundle, after putting the program that runs it beside its files."""
    try:
        (folder / EXAMPLE).write_text(example(folder), encoding="utf-8")
    except CompilerError:
        (folder / EXAMPLE).unlink(missing_ok=True)  # Not every engine has one.
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            info = zipfile.ZipInfo(file.relative_to(folder).as_posix(), _TIME)
            # Weights do not become smaller.
            archive.writestr(info, file.read_bytes(), zipfile.ZIP_STORED)


def example_of(builds: BuildService, name: str) -> str:
    """Return the program that runs the build. Raises FailedPrecondition where there is none for its engine."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return example(_unpacked(builds, name, Path(scratch)))
        except CompilerError as error:
            raise FailedPrecondition(str(error)) from error


def _unpacked(builds: BuildService, name: str, folder: Path) -> Path:
    build = builds.get(name)
    if not build.bundle:
        raise FailedPrecondition(
            f"{name} is {build.state.lower()} and has no files: {build.reason or 'it is not done'}"
        )
    return builds.unpack(build.bundle, folder)
