"""Turn what a user names on the command line into an archive that the hub takes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milonga_hub.cli.failures import NOT_FOUND, Refused
from milonga_hub.datasets.archive import pack_folder


@contextmanager
def packed(source: Path) -> Iterator[Path]:
    """Yield an archive of the folder, which is gone after the block; an archive is yielded as it is."""
    if source.is_file():
        yield source
        return
    if not source.is_dir():
        raise Refused(
            f"there is no folder or archive {source}; give one with a folder of pictures for each class, or"
            " in the layout of YOLO, COCO or Pascal VOC",
            NOT_FOUND,
        )
    with tempfile.TemporaryDirectory(prefix="milonga-") as folder:
        archive = Path(folder) / "pictures.tar"
        pack_folder(source, archive)
        yield archive
