"""Turn what a user names on the command line into an archive that the hub takes."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milonga_hub.cli.client import NOT_FOUND, Refused


@contextmanager
def packed(source: Path) -> Iterator[Path]:
    """Yield an archive of the folder, which is gone after the block; an archive is yielded as it is.

    Pictures are compressed already, so they are only stored.
    """
    if source.is_file():
        yield source
        return
    if not source.is_dir():
        raise Refused(
            f"there is no folder or archive {source}; give one with a folder of pictures for each class", NOT_FOUND
        )
    files = sorted(path for path in source.rglob("*") if path.is_file() and not _hidden(path.relative_to(source)))
    if not files:
        raise Refused(f"{source} holds no files; give a folder with one folder of pictures for each class")
    with tempfile.TemporaryDirectory(prefix="milonga-") as folder:
        archive = Path(folder) / "pictures.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, strict_timestamps=False) as target:
            for path in files:
                target.write(path, path.relative_to(source).as_posix())
        yield archive


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
