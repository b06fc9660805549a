"""What an agent takes in its own place: the wheels of this hub under a manifest, signed as builds are (docs/adr/0042)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from milonga.release import KIND, PROJECT, read_release
from milonga_compiler.files import write_atomically

from milonga_hub.blobs import Blobs, digest_of
from milonga_hub.db import utc_now
from milonga_hub.devices.models import File
from milonga_hub.devices.values import AgentRelease
from milonga_hub.errors import FailedPrecondition
from milonga_hub.install.wheels import SERVED, wheel_of

# To pack wheels takes some tens of milliseconds, and many devices may want them at once.
_FRESH_SECONDS = 60.0


class Signer(Protocol):
    """What releases need of SigningService."""

    def sign(self, project: str, bundles: Mapping[str, int]) -> None: ...
    def is_signed(self, project: str, bundle: str) -> bool: ...


class AgentReleases:
    """The agent that fits this hub. Its number grows with each change, so that an old one is never taken for a new one."""

    def __init__(self, path: Path, blobs: Blobs, signer: Signer, clock: Callable[[], datetime] = utc_now) -> None:
        """`path` keeps the manifest of the newest."""
        self._path = path
        self._blobs = blobs
        self._signer = signer
        self._clock = clock
        self._making = threading.Lock()
        self._made: AgentRelease | None = None
        self._made_at = 0.0

    def current(self) -> AgentRelease:
        """Return the release, made and signed where it is new.

        Raises FailedPrecondition while it lacks a signature without which no agent takes it.
        """
        with self._making:
            if self._made is None or time.monotonic() - self._made_at > _FRESH_SECONDS:
                self._made, self._made_at = self._release(), time.monotonic()
            return self._made

    def _release(self) -> AgentRelease:
        wheels = [wheel_of(distribution) for distribution in SERVED]
        files = [
            File(path=wheel.file_name, digest=f"sha256:{wheel.sha256}", size_bytes=len(wheel.content))
            for wheel in wheels
        ]
        text = self._manifest([file.model_dump() for file in files])
        # Again each time: what nothing in the database names is collected one day.
        for content in (text, *(wheel.content for wheel in wheels)):
            self._blobs.put(content)
        manifest = File(path="manifest.json", digest=digest_of(text), size_bytes=len(text))
        self._signer.sign(PROJECT, {manifest.digest: manifest.size_bytes})
        if not self._signer.is_signed(PROJECT, manifest.digest):
            raise FailedPrecondition(
                "this hub's agent is not signed yet by keys that are not on this hub; see milonga keys status, sign what waits, and"
                " upgrade again"
            )
        told = read_release(text)
        return AgentRelease(manifest, tuple(files), told.number, f"{told.version}+{told.number}")

    def _manifest(self, files: list[dict[str, Any]]) -> bytes:
        known: dict[str, Any] = json.loads(self._path.read_bytes()) if self._path.exists() else {"number": 0}
        if known.get("files") == files:
            return self._path.read_bytes()
        # By the clock, so that a hub that was set up anew from a backup does not begin below what its devices have.
        number = max(known["number"] + 1, int(self._clock().timestamp()))
        version = metadata.version("milonga-agent")
        told = {"kind": KIND, "project": PROJECT, "number": number, "version": version, "files": files}
        text = json.dumps(told, indent=1, sort_keys=True).encode()
        write_atomically(self._path, text.decode())
        return text
