"""What simulated devices do with bundles: every byte is fetched and checked, none is kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from milonga_agent.downloads import Line
from milonga_agent.errors import BadBundle
from milonga_agent.fetching import Moved
from milonga_agent.plan import WantedFile, Wish
from milonga_agent.simulation.tally import Tally
from milonga_agent.trusting import FetchMetadata, Trust

_MANIFEST = "manifest.json"


class Bundles:
    """What the whole fleet knows of the bundles that any of its devices was assigned."""

    def __init__(self, folder: Path) -> None:
        self._trust = Trust(folder / "trust")
        self._asking = asyncio.Lock()
        self._trusted: set[str] = set()
        self._references: dict[str, Mapping[str, Any]] = {}

    async def check(self, wish: Wish, fetch: FetchMetadata) -> None:
        """Return if the bundle is signed. Verified once for all, as one device does it. Raises as Trust.check does."""
        async with self._asking:
            if wish.bundle in self._trusted:
                return
            size_bytes = next((file.size_bytes for file in wish.files if file.path == _MANIFEST), 0)
            await self._trust.check(wish.project, wish.bundle, size_bytes, fetch)
            self._trusted.add(wish.bundle)

    def remember(self, bundle: str, manifest: bytes) -> None:
        """Keep what the manifest says of the validation pictures."""
        if bundle in self._references:
            return
        try:
            self._references[bundle] = dict(json.loads(manifest).get("reference") or {})
        except (ValueError, AttributeError, TypeError) as error:
            raise BadBundle(f"manifest.json of {bundle} cannot be read: {error}") from error

    def reference(self, bundle: str) -> Mapping[str, Any]:
        return self._references.get(bundle, {})


class Passing:
    """A depot in which nothing stays: files pass through and are held against their digests."""

    def __init__(self, bundles: Bundles, tally: Tally) -> None:
        self._bundles = bundles
        self._tally = tally

    async def download(
        self, files: tuple[WantedFile, ...], line: Line, tell: Callable[[float], None], held: Sequence[str] = ()
    ) -> Moved:
        """Fetch all files. Raises BadBundle for one that is not what it should be, or whatever the line raises."""
        for number, file in enumerate(files, start=1):
            digest, kept = hashlib.sha256(), bytearray()
            async for chunk in line.fetch(file.digest, 0):
                digest.update(chunk)
                self._tally.downloaded_bytes += len(chunk)
                if file.path == _MANIFEST:
                    kept += chunk
            if f"sha256:{digest.hexdigest()}" != file.digest:
                raise BadBundle(f"{file.path} is not what its digest says")
            if file.path == _MANIFEST:
                self._bundles.remember(file.digest, bytes(kept))
            tell(number / len(files))
        whole_bytes = sum(file.size_bytes for file in files)
        return Moved(whole_bytes, whole_bytes)

    def verify(self, wish: Wish) -> None:
        """Nothing is left to do: files are verified as they pass."""

    def install(self, wish: Wish) -> None:
        """There is no disk to install to."""

    def bundle(self, digest: str) -> Path:
        return Path("simulated") / digest
