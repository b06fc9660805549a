"""Archives on their way in: a folder that holds them, a size that they must keep to, and a disk that may be full."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from milonga_hub.errors import InvalidInput, OutOfRoom, ResourceExhausted

IN_PARTS = "send it in parts, each added to those before (--append), or "


class Uploads:
    """A folder for archives while they arrive; nothing in it outlives its upload, or the next start."""

    def __init__(self, folder: Path, max_bytes: int, what: str = "archive", instead: str = IN_PARTS) -> None:
        """`what` arrives, and `instead` is what one can do where it is too large."""
        self.folder = folder
        self.max_bytes = max_bytes
        self._what, self._instead = what, instead
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.iterdir():
            left_over.unlink()

    @contextmanager
    def receiving(self) -> Iterator[Upload]:
        """Give a file to write to. It is gone when the block ends."""
        descriptor, name = tempfile.mkstemp(dir=self.folder)
        upload = Upload(Path(name), descriptor, self.max_bytes, self._what, self._instead)
        try:
            yield upload
        finally:
            os.close(descriptor)
            upload.path.unlink(missing_ok=True)


@asynccontextmanager
async def whole_body(request: Request, uploads: Uploads) -> AsyncIterator[Path]:
    """Give the file that a request's body is. Raises ResourceExhausted as Upload does, InvalidInput where the body is cut off."""
    with uploads.receiving() as upload:
        upload.expect(int(request.headers.get("content-length") or 0))
        try:
            async for chunk in request.stream():
                upload.write(chunk)
        except ClientDisconnect as error:
            raise InvalidInput("the upload was cut off; send it again") from error
        yield upload.path


class Upload:
    """One archive that arrives in chunks. Writes are unbuffered: a full disk shows here, where it is explained."""

    def __init__(self, path: Path, descriptor: int, max_bytes: int, what: str, instead: str) -> None:
        self.path = path
        self._what, self._instead = what, instead
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._received_bytes = 0

    def expect(self, size_bytes: int) -> None:
        """Raise ResourceExhausted where so much would be too much."""
        if size_bytes > self._max_bytes:
            raise ResourceExhausted(
                f"the {self._what} is larger than the {self._max_bytes:,} bytes that this hub takes; {self._instead}start the hub"
                " with a larger MILONGA_MAX_UPLOAD_BYTES"
            )

    def write(self, chunk: bytes) -> None:
        """Keep the next part. Raises ResourceExhausted beyond the limit, and where the disk is full."""
        self._received_bytes += len(chunk)
        self.expect(self._received_bytes)
        try:
            left = memoryview(chunk)
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OutOfRoom(
                    f"the hub's disk is full; free space under {self.path.parent} and send it again"
                ) from error
            raise
