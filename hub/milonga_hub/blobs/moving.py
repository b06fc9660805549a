"""Copy blobs from one store to another: what is there already is left alone, so that it may be cut off and begun again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from milonga_hub.blobs.interface import Blobs, Kept
from milonga_hub.errors import BlobDamaged, BlobsUnreachable

# Bytes that are done, and all there are.
OnProgress = Callable[[int, int], None]

# Pictures are small: what takes time is asking.
_AT_ONCE = 16


@dataclass
class Copied:
    """What a copying did; `damaged` are blobs of the source that are not what their names say."""

    copied_count: int = 0
    there_count: int = 0
    size_bytes: int = 0
    damaged: list[str] = field(default_factory=list)


def copy_all(source: Blobs, target: Blobs, on_progress: OnProgress = lambda done, total: None) -> Copied:
    """Copy what the target does not have, and look that it then has all.

    What is damaged is named and left out. Raises BlobsUnreachable where a store does not answer, or the target lost some.
    """
    copied = Copied()
    total = sum(blob.size_bytes for blob in source.all())
    there = {blob.digest: blob.size_bytes for blob in target.all()}
    done = 0
    for blob, is_copied in _each(source, target, there, copied.damaged):
        done += blob.size_bytes
        copied.copied_count += is_copied
        copied.there_count += not is_copied
        copied.size_bytes += blob.size_bytes * is_copied
        on_progress(min(done, total), total)
    found = {blob.digest: blob.size_bytes for blob in target.all()}
    wanted = (blob for blob in source.all() if blob.digest not in copied.damaged)
    if lost := [blob.digest for blob in wanted if found.get(blob.digest) != blob.size_bytes]:
        raise BlobsUnreachable(f"{target.where} does not have {lost[0]}, which was just copied; copy again")
    return copied


def _each(source: Blobs, target: Blobs, there: dict[str, int], damaged: list[str]) -> Iterator[tuple[Kept, bool]]:
    """Yield each blob that is there in the end, and whether it was copied now."""
    with ThreadPoolExecutor(_AT_ONCE, "copying") as threads:
        running: dict[Future[bool], Kept] = {}
        for blob in source.all():
            if there.get(blob.digest) == blob.size_bytes:
                yield blob, False
                continue
            running[threads.submit(_copy, source, target, blob.digest)] = blob
            if len(running) >= 2 * _AT_ONCE:
                yield from _ended(running, damaged)
        while running:
            yield from _ended(running, damaged)


def _ended(running: dict[Future[bool], Kept], damaged: list[str]) -> Iterator[tuple[Kept, bool]]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        blob = running.pop(future)
        if future.result():
            yield blob, True
        else:
            damaged.append(blob.digest)


def _copy(source: Blobs, target: Blobs, digest: str) -> bool:
    """Return whether the blob is what its name says, and there now."""
    try:
        return target.put_file(source.path(digest)) == digest
    except BlobDamaged:
        return False
