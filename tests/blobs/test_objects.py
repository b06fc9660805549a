"""Blobs that lie elsewhere: what is cached, what becomes of a store that fails, and of a hub that is killed while it sends."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.blobs import Blobs, BlobStore, digest_of, digest_of_file
from milonga_hub.blobs.cache import Cache
from milonga_hub.blobs.objects import ObjectBlobs
from milonga_hub.errors import BlobDamaged, BlobsUnreachable, NotFound, ResourceExhausted

from tests.blobs.stores import S3, SECRET, in_memory, in_s3, on_fsspec_disk


class Flaky:
    """A store that fails so many times before it answers."""

    def __init__(self, store: Any, error: Exception, times: int) -> None:
        self._store, self._error, self.left = store, error, times
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def asked(*arguments: Any, **options: Any) -> Any:
            self.asked.append(name)
            if self.left > 0:
                self.left -= 1
                raise self._error
            return found(*arguments, **options)

        return asked


def _failing(blobs: ObjectBlobs, error: Exception, times: int, pauses: int) -> Flaky:
    flaky = Flaky(blobs._store, error, times)
    blobs._store, blobs._pauses_seconds = flaky, (0.0,) * pauses
    return flaky


def test_a_blob_is_fetched_once_and_ranges_of_it_alone(tmp_path: Path) -> None:
    blobs = in_memory(tmp_path)
    digest = blobs.put(b"0123456789")
    asked = _failing(blobs, OSError(), 0, 0).asked
    assert blobs.read_range(digest, 2, 3) == b"234"
    assert blobs.read(digest) == blobs.read(digest) == b"0123456789"
    assert blobs.read_range(digest, 2, 3) == b"234" and blobs.size(digest) == 10
    assert asked == ["cat_file", "get_file"]


def test_what_was_cut_on_the_way_is_asked_for_again(tmp_path: Path) -> None:
    blobs = in_memory(tmp_path)
    digest = blobs.put(b"weights")
    flaky = _failing(blobs, ConnectionResetError("reset"), times=2, pauses=2)
    assert blobs.read(digest) == b"weights" and flaky.left == 0


@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), TimeoutError(), RuntimeError("of a library"), OSError(5, "I/O")]
)
def test_a_store_that_does_not_answer_is_told_and_never_taken_for_empty(tmp_path: Path, error: Exception) -> None:
    blobs = in_memory(tmp_path)
    digest = blobs.put(bytes(2_000_000))
    _failing(blobs, error, times=1000, pauses=1)
    for ask in (blobs.exists, blobs.read, blobs.size, blobs.delete, lambda one: blobs.put(bytes(2_000_000))):
        with pytest.raises(BlobsUnreachable, match=r"memory://\w+ does not answer .* try again"):
            ask(digest)
    with pytest.raises(BlobsUnreachable):
        blobs.check()
    with pytest.raises(BlobsUnreachable):
        list(blobs.all())


def test_a_store_that_refuses_is_not_asked_again(tmp_path: Path) -> None:
    blobs = in_memory(tmp_path)
    flaky = _failing(blobs, PermissionError("Access Denied"), times=1, pauses=2)
    with pytest.raises(BlobsUnreachable, match="refuses this hub: Access Denied; look at its credentials"):
        blobs.put(b"weights")
    assert flaky.asked == ["pipe_file"]


def test_what_is_damaged_there_is_named_and_never_returned(tmp_path: Path) -> None:
    blobs = in_memory(tmp_path)
    digest = blobs.put(b"weights")
    blobs._store.pipe_file(f"{blobs._prefix}/{digest[7:9]}/{digest[9:]}", b"Weights")
    with pytest.raises(BlobDamaged, match=f"returns something else for {digest}"):
        blobs.read(digest)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    # Small ones are mended by keeping them again.
    blobs.put(b"weights")
    assert blobs.read(digest) == b"weights"


def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    blobs = in_memory(tmp_path)
    digest = blobs.put(b"weights")
    _failing(blobs, OSError(28, "No space left on device"), times=1, pauses=2)
    with pytest.raises(ResourceExhausted, match="the hub's disk is full"):
        blobs.read(digest)


def test_what_could_not_be_kept_ahead_is_told_before_the_block_ends(tmp_path: Path) -> None:
    blobs = in_memory(tmp_path)
    _failing(blobs, ConnectionError("cut"), times=1000, pauses=0)
    with pytest.raises(BlobsUnreachable, match="cut"), blobs.ahead() as sink:
        sink.put(b"a picture")
    # Nor is one import's failure the next one's.
    blobs._store.left = 0
    with blobs.ahead() as sink:
        digest = sink.put(b"a picture")
    assert blobs.read(digest) == b"a picture"


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _fill(cache: Cache, content: bytes) -> Path:
    path = cache.add(digest_of(content), lambda part: _write(part, content))
    assert path is not None
    return path


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_what_was_used_longest_ago_leaves_the_cache(tmp_path: Path) -> None:
    time = Time()
    cache = Cache(tmp_path, 25, time)
    first, second = _fill(cache, b"a" * 10), _fill(cache, b"b" * 10)
    time.now += 100.0
    assert cache.find(digest_of(b"a" * 10)) == first
    third = _fill(cache, b"c" * 10)
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    assert cache.find(digest_of(b"b" * 10)) is None


def test_what_is_in_use_stays_although_there_is_no_room(tmp_path: Path) -> None:
    time = Time()
    cache = Cache(tmp_path, 0, time)
    first = _fill(cache, b"a" * 10)
    second = _fill(cache, b"b" * 10)
    assert first.exists() and second.exists()
    time.now += 100.0
    third = _fill(cache, b"c" * 10)
    assert (first.exists(), second.exists(), third.exists()) == (False, False, True)


def test_a_cache_of_an_earlier_process_is_believed_only_where_it_is_whole(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1000)
    whole, torn = _fill(cache, b"whole"), _fill(cache, b"torn by a power cut")
    torn.write_bytes(b"torn")
    left = torn.with_name(".part-of-a-killed-hub")
    left.write_bytes(b"...")
    again = Cache(tmp_path, 1000)
    assert again.find(digest_of(b"whole")) == whole
    assert again.find(digest_of(b"torn by a power cut")) is None and not torn.exists() and not left.exists()


_DYING = """
import os, signal, sys
from pathlib import Path
from tests.blobs import stores

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

kind, folder = sys.argv[1], Path(sys.argv[2])
content = folder / "content"
if kind == "folder":
    from milonga_hub.blobs import BlobStore
    blobs = BlobStore(folder / "far")
    os.fsync = die
elif kind == "fsspec-disk":
    blobs = stores.on_fsspec_disk(folder)
    blobs._store.mv = die
else:
    from milonga_hub.blobs.places import open_stores
    blobs = open_stores(folder, sys.argv[3], 1 << 30).blobs
    ask = blobs._store._call_s3
    async def asked(method, *arguments, **options):
        if method == "complete_multipart_upload":
            die()
        return await ask(method, *arguments, **options)
    blobs._store._call_s3 = asked
blobs.put_file(content)
"""


def _die_sending(kind: str, folder: Path, size_bytes: int, url: str = "") -> str:
    """Let a process be killed when all is sent but the name; return the digest of what it sent."""
    content = folder / "content"
    with content.open("wb") as file:
        file.truncate(size_bytes)
    ended = subprocess.run([sys.executable, "-c", _DYING, kind, str(folder), url], check=False)
    assert ended.returncode == -signal.SIGKILL
    return digest_of_file(content)


@pytest.mark.parametrize("kind", ["folder", "fsspec-disk"])
def test_a_hub_that_is_killed_while_it_sends_leaves_nothing_half(kind: str, tmp_path: Path) -> None:
    digest = _die_sending(kind, tmp_path, 3_000_000)
    again: Blobs = BlobStore(tmp_path / "far") if kind == "folder" else on_fsspec_disk(tmp_path)
    _holds_nothing_until_sent_again(again, digest, tmp_path)


def test_nor_does_one_that_sends_to_s3_in_parts(server: S3, tmp_path: Path) -> None:
    blobs = in_s3(server, tmp_path / "cache")
    url = blobs.where.removesuffix("/blobs")
    digest = _die_sending("s3", tmp_path, 101 << 20, url)
    _holds_nothing_until_sent_again(blobs, digest, tmp_path)


def _holds_nothing_until_sent_again(blobs: Blobs, digest: str, folder: Path) -> None:
    assert not blobs.exists(digest) and not list(blobs.all())
    with pytest.raises(NotFound):
        blobs.read_range(digest, 0, 1)
    assert blobs.put_file(folder / "content") == digest
    assert blobs.exists(digest) and blobs.size(digest) == (folder / "content").stat().st_size


def test_a_bucket_that_is_not_there_is_told(server: S3, tmp_path: Path) -> None:
    blobs = in_s3(S3("s3://nobody-made-this/hub"), tmp_path)
    with pytest.raises(BlobsUnreachable, match=r"there is no s3://nobody-made-this/hub.*; make the bucket"):
        blobs.prepare()


def test_no_secret_is_in_errors_or_logs(
    server: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    blobs = in_s3(server, tmp_path)
    blobs._pauses_seconds = ()
    with caplog.at_level(logging.INFO), pytest.raises(BlobsUnreachable) as told:
        blobs.put(b"weights")
    assert SECRET not in str(told.value) and SECRET not in caplog.text
