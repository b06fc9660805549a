"""Find and delete blobs that nothing names any more: of imports that were refused or cut off, and of measurements that are done."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Engine

from milonga_hub.blobs.interface import Blobs
from milonga_hub.errors import NotFound

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# Listings of data sets and manifests of bundles, which name further blobs, begin so; pictures and weights do not.
_JSON = b"{"
_CHUNK_ROWS = 1000
# Of a run's folder: plans and results are far smaller.
_MOST_JSON_BYTES = 64 << 20


@dataclass
class Swept:
    """What nothing named, and whether it was deleted."""

    count: int = 0
    size_bytes: int = 0
    kept_count: int = 0


def sweep(
    blobs: Blobs,
    engine: Engine,
    data_dir: Path,
    before: datetime,
    *,
    dry_run: bool = False,
    on_progress: Callable[[int], None] = lambda looked_at: None,
) -> Swept:
    """Delete the blobs from before then that neither the database names, nor what it names, nor a file of a run.

    No hub may be running on any of it: one could just be naming a blob that it found here.
    """
    named = {*_in_tables(engine), *_in_files(data_dir)}
    named |= {digest for one in sorted(named) for digest in _in_blob(blobs, one)}
    swept = Swept()
    for number, blob in enumerate(blobs.all(), 1):
        on_progress(number)
        if blob.digest in named or blob.kept_at >= before:
            swept.kept_count += 1
            continue
        swept.count += 1
        swept.size_bytes += blob.size_bytes
        if not dry_run:
            blobs.delete(blob.digest)
    if not dry_run:
        blobs.tidy(before)
    return swept


def _in_tables(engine: Engine) -> Iterator[str]:
    """Yield the digests in all texts of all tables, also of those that a plug-in made."""
    known = sa.MetaData()
    known.reflect(engine)
    with engine.connect() as connection:
        for table in known.sorted_tables:
            for column in (one for one in table.columns if isinstance(one.type, sa.String | sa.JSON)):
                text = sa.cast(column, sa.Text)
                rows = connection.execute(sa.select(text).where(text.like("%sha256:%")).distinct())
                for rows_of_some in rows.partitions(_CHUNK_ROWS):
                    for (value,) in rows_of_some:
                        yield from _DIGEST.findall(value)


def _in_files(data_dir: Path) -> Iterator[str]:
    """Yield the digests in what runs, builds and imports under way have written down."""
    for folder in ("runs", "builds", "imports"):
        for path in (data_dir / folder).rglob("*.json"):
            if path.is_file() and path.stat().st_size <= _MOST_JSON_BYTES:
                yield from _DIGEST.findall(path.read_text(encoding="utf-8", errors="replace"))


def _in_blob(blobs: Blobs, digest: str) -> Iterator[str]:
    try:
        if blobs.read_range(digest, 0, len(_JSON)) == _JSON:
            yield from _DIGEST.findall(blobs.read(digest).decode("utf-8", errors="replace"))
    except NotFound:
        return  # The fingerprint of a key, or a blob that is gone.
