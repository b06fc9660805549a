"""Looks at all pictures of a version once, beside everything else, for those that look alike."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from milonga_compiler.files import write_atomically
from PIL import Image

from milonga_hub.blobs import Blobs
from milonga_hub.datasets.rules import Sample
from milonga_hub.datasets.rules_likeness import Look, groups_of, look_of
from milonga_hub.events import Event, EventBus

_log = logging.getLogger(__name__)

# Looking takes some milliseconds a picture, and 300 bytes of memory.
MOST_LOOKED_AT = 20_000
_KEPT_VERSIONS = 8
_TELL_SECONDS = 2.0
_KEPT_FILES = 200
# Another number where rules_likeness finds other pictures alike than before: what was found by the old ones is then forgotten.
_ALGORITHM = 1


@dataclass(frozen=True)
class Likeness:
    """How far the looking is; `groups` are of samples that look alike, None while it goes on."""

    looked_at: int
    total: int
    groups: Sequence[tuple[Sample, ...]] | None = None


class Likenesses:
    """What was seen of the newest versions that somebody asked for.

    With a `folder`, a hub that starts again knows it; what is in there may be deleted, and is then looked for anew.
    """

    def __init__(self, blobs: Blobs, events: EventBus, folder: Path | None = None) -> None:
        self._blobs, self._events = blobs, events
        self.folder = folder
        self._known: OrderedDict[str, Likeness] = OrderedDict()
        self._lock = threading.Lock()
        self._looking: threading.Thread | None = None

    def of(self, version: str, samples: Sequence[Sample]) -> Likeness:
        """Return what is known by now; the first to ask has the pictures looked at."""
        with self._lock:
            known = self._known.get(version)
            if known is not None:
                return known
            some = samples[:MOST_LOOKED_AT]
            begun = self._known[version] = self._kept(some) or Likeness(0, len(some))
            while len(self._known) > _KEPT_VERSIONS:
                self._known.popitem(last=False)
        if begun.groups is not None:
            return begun
        self._looking = threading.Thread(target=self._look, args=(version, some), name="likeness", daemon=True)
        self._looking.start()
        return begun

    def finish(self) -> None:
        """Wait for the looking that began last."""
        if self._looking is not None:
            self._looking.join()

    def _look(self, version: str, samples: Sequence[Sample]) -> None:
        seen: list[tuple[Sample, Look]] = []
        told_at = time.monotonic()
        for count, sample in enumerate(samples):
            if time.monotonic() - told_at >= _TELL_SECONDS:
                told_at = time.monotonic()
                self._keep(version, Likeness(count, len(samples)))
            try:
                with Image.open(io.BytesIO(self._blobs.read(sample.digest))) as image:
                    seen.append((sample, look_of(image)))
            except Exception:
                # One picture that cannot be read now is no reason to say nothing of the others.
                _log.debug("%s is not looked at", sample.digest, exc_info=True)
        groups = groups_of([look for _, look in seen])
        found = [tuple(seen[place][0] for place in group) for group in groups]
        self._write(samples, found)
        self._keep(version, Likeness(len(samples), len(samples), found))

    def _file(self, samples: Sequence[Sample]) -> Path | None:
        """Return where is kept what was seen of exactly these pictures."""
        if self.folder is None:
            return None
        content = "".join(sample.digest for sample in samples)
        return self.folder / f"{_ALGORITHM}-{hashlib.sha256(content.encode()).hexdigest()}.json"

    def _kept(self, samples: Sequence[Sample]) -> Likeness | None:
        file = self._file(samples)
        try:
            groups = json.loads(file.read_text(encoding="utf-8")) if file else None
            if groups is None:
                return None
            found = [tuple(samples[place] for place in group) for group in groups]
        except (OSError, ValueError, TypeError, IndexError):
            # Not there, or damaged: looking again costs some seconds.
            return None
        return Likeness(len(samples), len(samples), found)

    def _write(self, samples: Sequence[Sample], groups: Sequence[tuple[Sample, ...]]) -> None:
        file = self._file(samples)
        if file is None:
            return
        places = {sample.digest: place for place, sample in enumerate(samples)}
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps([[places[sample.digest] for sample in group] for group in groups]))
            for old in sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)[:-_KEPT_FILES]:
                old.unlink(missing_ok=True)
        except OSError:
            _log.warning("what looks alike is not kept: %s cannot be written", file, exc_info=True)

    def _keep(self, version: str, likeness: Likeness) -> None:
        with self._lock:
            if version in self._known:
                self._known[version] = likeness
        self._events.publish_all([Event(f"likeness/{version}", None)])
