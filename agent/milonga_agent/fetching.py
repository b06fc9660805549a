"""Choose how a blob comes to this device: as a delta from what lies here, or whole where that fails or would not pay."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from milonga_agent.downloads import Chunks, DeltaOffer, Download, Line, Neighbour, Offer
from milonga_agent.errors import AgentError, DiskFull, HubUnreachable, Refused
from milonga_agent.files import disk_errors, sync_folder
from milonga_agent.neighbourhood import Neighbourhood
from milonga_agent.patching import patch
from milonga_agent.plan import WantedFile

_log = logging.getLogger(__name__)

# A file that is here before the hub could answer how it can be had.
_SMALL_BYTES = 16 << 10


@dataclass(frozen=True)
class Moved:
    """What was moved to bring so much here; what lay here already, and deltas, make the difference."""

    moved_bytes: int
    whole_bytes: int
    deltas: int = 0
    # Of what was moved, what other devices sent, by their names.
    neighbours: Mapping[str, int] = field(default_factory=dict)

    @property
    def neighbour_bytes(self) -> int:
        return sum(self.neighbours.values())

    def __str__(self) -> str:
        deltas = f", {self.deltas} as a delta" if self.deltas else ""
        nearby = f", {megabytes(self.neighbour_bytes)} of it from neighbours" if self.neighbour_bytes else ""
        return f"{megabytes(self.moved_bytes)} moved for {megabytes(self.whole_bytes)}{deltas}{nearby}"


def megabytes(size_bytes: int) -> str:
    """Return the size in MB, two digits of it that say something: a small network is a few kB."""
    megabytes = size_bytes / 1e6
    return f"{megabytes:.2f} MB" if megabytes >= 0.1 or not size_bytes else f"{megabytes:.2g} MB"


class Fetching:
    """Fetches into one folder, where blobs lie by `place_of(digest)`; half-made files have its name and a suffix."""

    def __init__(self, place_of: Callable[[str], Path]) -> None:
        self._place_of = place_of
        # By digest of what is wanted.
        self._moved: Counter[str] = Counter()
        self._moved_nearby: dict[str, Counter[str]] = {}
        self._by_delta: set[str] = set()
        # How much of what is half here was verified by this process.
        self._verified: dict[str, int] = {}
        # Deltas that did not work.
        self._useless: set[str] = set()
        self._neighbourhood = Neighbourhood()

    def take_moved(self, files: Sequence[WantedFile]) -> Moved:
        """Return what this process moved to bring these files here, and count anew."""
        sizes = {file.digest: file.size_bytes for file in files}
        moved_bytes = sum(self._moved.pop(digest, 0) for digest in sizes)
        neighbours: Counter[str] = Counter()
        for digest in sizes:
            neighbours.update(self._moved_nearby.pop(digest, {}))
        deltas = self._by_delta & sizes.keys()
        self._by_delta -= deltas
        return Moved(moved_bytes + sum(neighbours.values()), sum(sizes.values()), len(deltas), neighbours)

    async def fetch(self, file: WantedFile, line: Line, held: Sequence[str], tell: Callable[[int], None]) -> None:
        """Bring the file here. Raises DiskFull, HubUnreachable, Refused, or AgentError where it stays damaged."""
        part = self._beside(file.digest, "part")
        # What was begun whole goes on so.
        offer = await self._offer(file, line, () if part.exists() else held)
        chunks = offer.chunks
        if chunks is not None and not (chunks.is_sound and chunks.size_bytes == file.size_bytes):
            chunks = None
        if chunks is not None and offer.neighbours:
            await self._take_nearby(file, chunks, offer.neighbours, tell)
        if self._is_worth_it(offer.delta, file, part):
            delta = offer.delta
            assert delta is not None
            try:
                await self._patch(file, delta, line, tell)
                part.unlink(missing_ok=True)
                return
            except (HubUnreachable, DiskFull):
                raise
            except AgentError as error:
                self._useless.add(delta.digest)
                _log.warning("%s comes whole: %s", file.path, error)
        whole = Download(file.digest, file.size_bytes, part, line, chunks, self._counting(file.digest), tell)
        await self._run(whole, self._place_of(file.digest))

    async def _take_nearby(
        self, file: WantedFile, chunks: Chunks, neighbours: tuple[Neighbour, ...], tell: Callable[[int], None]
    ) -> None:
        """Take from neighbours what they have of it, verified."""
        part = self._beside(file.digest, "part")
        before = part.stat().st_size if part.exists() else 0
        with disk_errors(part):
            try:
                sent = self._moved_nearby.setdefault(file.digest, Counter())
                await self._neighbourhood.bring(file.digest, chunks, neighbours, part, sent, tell)
            finally:
                after = part.stat().st_size if part.exists() else 0
                if self._verified.get(file.digest, 0) == before:
                    self._verified[file.digest] = after

    def _is_worth_it(self, delta: DeltaOffer | None, file: WantedFile, part: Path) -> bool:
        """Say whether a delta is less than what neighbours left to come."""
        if delta is None or delta.digest in self._useless or not self._place_of(delta.base).exists():
            return False
        return delta.chunks.size_bytes < file.size_bytes - (part.stat().st_size if part.exists() else 0)

    async def _offer(self, file: WantedFile, line: Line, held: Sequence[str]) -> Offer:
        if file.size_bytes < _SMALL_BYTES:
            return Offer()
        try:
            return await line.offer(file.digest, held)
        except (HubUnreachable, Refused):
            raise
        except AgentError as error:
            _log.warning("%s comes whole and without chunks: %s", file.path, error)
            return Offer()

    async def _patch(self, file: WantedFile, delta: DeltaOffer, line: Line, tell: Callable[[int], None]) -> None:
        name = delta.digest.partition(":")[2][:16]
        part, whole, made = (self._beside(file.digest, f"{name}.{suffix}") for suffix in ("part", "delta", "made"))
        size_bytes = delta.chunks.size_bytes
        if not delta.chunks.is_sound or size_bytes >= file.size_bytes:
            raise AgentError("the hub offers a delta that is none")

        def told(so_far: int) -> None:
            tell(so_far * file.size_bytes // max(1, size_bytes))

        if not whole.exists():
            await self._run(
                Download(delta.digest, size_bytes, part, line, delta.chunks, self._counting(file.digest), told), whole
            )
        try:
            with disk_errors(made):
                await patch(whole, self._place_of(delta.base), made, file.digest)
            made.replace(self._place_of(file.digest))
            sync_folder(made.parent)
            self._by_delta.add(file.digest)
        finally:
            made.unlink(missing_ok=True)
            whole.unlink(missing_ok=True)

    async def _run(self, download: Download, place: Path) -> None:
        download.verified_bytes = self._verified.get(download.digest, 0)
        try:
            await download.run(place)
        finally:
            self._verified[download.digest] = download.verified_bytes
        del self._verified[download.digest]

    def _counting(self, digest: str) -> Callable[[int], None]:
        def count(size_bytes: int) -> None:
            self._moved[digest] += size_bytes

        return count

    def _beside(self, digest: str, suffix: str) -> Path:
        place = self._place_of(digest)
        return place.with_name(f"{place.name}.{suffix}")
