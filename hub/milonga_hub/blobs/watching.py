"""Whether the store of blobs answers, for all who ask again and again."""

from __future__ import annotations

import threading
import time

from milonga_hub.blobs.interface import Blobs
from milonga_hub.errors import BlobsUnreachable

# Probes come every few seconds, from several sides.
_HELD_SECONDS = 10.0


class BlobWatch:
    """Asks the store at most once in some seconds."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._problem = ""

    def problem(self) -> str:
        """Return what is wrong with the store, "" while it answers. Takes seconds where it does not."""
        with self._lock:
            if time.monotonic() - self._asked_at >= _HELD_SECONDS:
                try:
                    self._blobs.check()
                    self._problem = ""
                except BlobsUnreachable as error:
                    self._problem = str(error)
                self._asked_at = time.monotonic()
            return self._problem
