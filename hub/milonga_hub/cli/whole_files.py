"""Write what a hub sends into a file that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def write_whole(output: Path, chunks: Iterable[bytes]) -> None:
    """Write the chunks beside the file, and put it in place when all have come."""
    part = output.with_name(f".{output.name}.part")
    with part.open("wb") as file:
        try:
            file.writelines(chunks)
        except BaseException:
            part.unlink()
            raise
    part.replace(output)
