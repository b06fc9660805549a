"""Signed metadata in files, as TUF names them: every version of every role is kept, timestamp.json is the way in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from milonga_compiler.files import write_atomically
from tuf.api.metadata import Metadata

from milonga_hub.errors import NotFound

_NAME = re.compile(r"(?:[1-9][0-9]{0,8}\.[a-z0-9-]{1,80}|timestamp)\.json")


class Repository:
    """Versions are written once; the order of writing keeps what is served whole at any moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> bytes:
        """Return a file as agents fetch it. Raises NotFound."""
        if not _NAME.fullmatch(name):
            raise NotFound(f"{name!r} is not the name of signed metadata")
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"there is no {name}") from error

    def roles(self) -> set[str]:
        """Return the roles that have signed something."""
        return {path.name.split(".")[1] for path in self.folder.glob("[0-9]*.json")} | (
            {"timestamp"} if (self.folder / "timestamp.json").exists() else set()
        )

    def version(self, role: str) -> int:
        """Return the newest version of a role, 0 for none."""
        return max((int(path.name.split(".")[0]) for path in self.folder.glob(f"*.{role}.json")), default=0)

    def latest(self, role: str) -> Metadata[Any] | None:
        name = "timestamp.json" if role == "timestamp" else f"{self.version(role)}.{role}.json"
        try:
            return Metadata.from_bytes(self.read(name))
        except NotFound:
            return None

    def write(self, role: str, metadata: Metadata[Any]) -> None:
        name = "timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / name, metadata.to_bytes().decode())
