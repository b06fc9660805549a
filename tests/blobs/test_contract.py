"""What every store of blobs promises, tried with each: a folder, fsspec in memory and on disk, and a server that speaks S3."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from milonga_hub.blobs import Blobs, BlobStore, digest_of
from milonga_hub.errors import InvalidInput, NotFound

from tests.blobs.stores import in_memory, in_s3, on_fsspec_disk

ABSENT = digest_of(b"nobody kept this")


@pytest.fixture(params=["folder", "memory", "fsspec-disk", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    makers: dict[str, Callable[[], Blobs]] = {
        "folder": lambda: BlobStore(tmp_path / "blobs"),
        "memory": lambda: in_memory(tmp_path / "cache"),
        "fsspec-disk": lambda: on_fsspec_disk(tmp_path),
        "s3": lambda: in_s3(request.getfixturevalue("server"), tmp_path),
    }
    made = makers[request.param]()
    made.prepare()
    return made


def test_what_was_kept_is_read_by_its_digest(blobs: Blobs, tmp_path: Path) -> None:
    digest = blobs.put(b"weights")
    assert digest == "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert blobs.exists(digest) and blobs.read(digest) == b"weights" and blobs.size(digest) == 7
    file = tmp_path / "model.onnx"
    file.write_bytes(bytes(3_000_000))
    assert blobs.put_file(file) == digest_of(bytes(3_000_000))
    assert blobs.path(digest_of(bytes(3_000_000))).read_bytes() == bytes(3_000_000)


def test_keeping_again_changes_nothing(blobs: Blobs) -> None:
    content = bytes(1_500_000)
    assert blobs.put(b"small") == blobs.put(b"small")
    assert blobs.put(content) == blobs.put(content)
    assert sorted(one.digest for one in blobs.all()) == sorted({digest_of(b"small"), digest_of(content)})


def test_many_that_are_kept_ahead_are_there_when_the_block_ends(blobs: Blobs) -> None:
    contents = [bytes([number]) * 100 for number in range(100)]
    with blobs.ahead() as sink:
        digests = [sink.put(content) for content in contents]
    assert digests == [digest_of(content) for content in contents]
    assert [one.digest for one in blobs.all()] == sorted(digests)


def test_a_range_is_what_lies_there(blobs: Blobs) -> None:
    digest = blobs.put(b"0123456789")
    assert blobs.read_range(digest, 3, 4) == b"3456"
    assert blobs.read_range(digest, 8, 2) == b"89" and blobs.read_range(digest, 10, 0) == b""
    # The same once the whole blob has been needed, and lies near.
    blobs.path(digest)
    assert blobs.read_range(digest, 3, 4) == b"3456"


def test_what_was_never_kept_is_not_found(blobs: Blobs) -> None:
    assert not blobs.exists(ABSENT)
    for read in (blobs.read, blobs.path, blobs.size, lambda digest: blobs.read_range(digest, 0, 1)):
        with pytest.raises(NotFound, match=ABSENT):
            read(ABSENT)
    blobs.delete(ABSENT)


@pytest.mark.parametrize("digest", ["", "sha256:../../etc", "md5:" + "0" * 64, "sha256:" + "G" * 64])
def test_a_name_that_is_no_digest_is_refused(blobs: Blobs, digest: str) -> None:
    for ask in (blobs.exists, blobs.read, blobs.path, blobs.size, blobs.delete):
        with pytest.raises(InvalidInput, match="is not a digest"):
            ask(digest)


def test_what_is_deleted_is_gone_from_everywhere(blobs: Blobs) -> None:
    digest = blobs.put(b"a picture that nobody may see any more")
    near = blobs.path(digest)
    blobs.delete(digest)
    assert not blobs.exists(digest) and not near.exists() and not list(blobs.all())
    with pytest.raises(NotFound):
        blobs.read(digest)


def test_all_tells_sizes_and_when_each_was_kept(blobs: Blobs) -> None:
    digests = sorted(blobs.put(bytes([number]) * (number + 1)) for number in range(5))
    told = list(blobs.all())
    assert [one.digest for one in told] == digests
    assert all(one.size_bytes == blobs.size(one.digest) for one in told)
    now = datetime.now(UTC)
    assert list(blobs.older_than(now - timedelta(hours=1))) == []
    assert list(blobs.older_than(now + timedelta(hours=1))) == digests


def test_a_copy_is_the_callers_own(blobs: Blobs, tmp_path: Path) -> None:
    digest = blobs.put(b"weights")
    target = tmp_path / "taken"
    blobs.copy_to(blobs.put(b"earlier"), target)
    blobs.copy_to(digest, target)
    blobs.delete(digest)
    assert target.read_bytes() == b"weights"
    assert blobs.read(digest_of(b"earlier")) == b"earlier"


def test_many_may_keep_and_read_the_same_at_once(blobs: Blobs) -> None:
    content = bytes(range(256)) * 5000
    with ThreadPoolExecutor(8) as threads:
        digests = set(threads.map(lambda _: blobs.put(content), range(8)))
        assert list(threads.map(lambda _: blobs.read(digest_of(content)) == content, range(8))) == [True] * 8
    assert digests == {digest_of(content)}


def test_a_store_that_answers_has_nothing_to_say(blobs: Blobs) -> None:
    blobs.check()
