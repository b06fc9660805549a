"""Write a zip file as it is sent: no more than one file of it is in memory, and nothing is on the disk."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator

# Zip files know no time before 1980; a fixed one gives equal bytes for equal content.
_TIME = (1980, 1, 1, 0, 0, 0)
_READABLE = 0o100644 << 16
_PIECE_BYTES = 1 << 20


class _Outlet:
    """Where the zip file is written to, which hands out what came."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.waiting_bytes = 0

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        self.waiting_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """zipfile asks for it; there is nothing to do."""

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces, self.waiting_bytes = [], 0
        return taken


def zipped(files: Iterable[tuple[str, bytes | Iterable[bytes]]]) -> Iterator[bytes]:
    """Yield the bytes of a zip file of these files, in some pieces for each; text in parts is compressed, bytes are stored.

    Pictures do not become smaller, what is told of them does.
    """
    outlet = _Outlet()
    with zipfile.ZipFile(outlet, "w", allowZip64=True) as archive:  # type: ignore[call-overload]
        for path, content in files:
            info = zipfile.ZipInfo(path, _TIME)
            info.external_attr = _READABLE
            if isinstance(content, bytes):
                archive.writestr(info, content, zipfile.ZIP_STORED)
                yield outlet.take()
                continue
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as file:
                for part in content:
                    file.write(part)
                    if outlet.waiting_bytes >= _PIECE_BYTES:
                        yield outlet.take()
            yield outlet.take()
    yield outlet.take()
