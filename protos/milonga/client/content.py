"""What is sent of a file: its path, itself opened, its bytes, or its chunks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Union, cast

Content = Union[str, "os.PathLike[str]", bytes, IO[bytes], Iterable[bytes]]
# A sixteenth of what the hub takes in one message.
CHUNK_BYTES = 1024 * 1024


def chunks_of(content: Content) -> Iterator[bytes]:
    """Yield the content in chunks. Raises OSError where the file cannot be read."""
    if isinstance(content, (str, os.PathLike)):
        with Path(content).open("rb") as file:
            yield from _read(file)
    elif isinstance(content, bytes):
        yield from (content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES))
    elif isinstance(content, Iterable) and not hasattr(content, "read"):
        yield from content
    else:
        yield from _read(cast("IO[bytes]", content))


def _read(file: IO[bytes]) -> Iterator[bytes]:
    while True:
        chunk = file.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk
