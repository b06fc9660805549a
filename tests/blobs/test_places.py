"""Where a hub has its blobs: settings, what the data folder remembers, moving, backups, and what says that a store is away."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import fsspec
import pytest
from milonga_hub import doctor
from milonga_hub.app import Hub
from milonga_hub.backup.making import back_up
from milonga_hub.backup.restoring import restore
from milonga_hub.blobs import BlobStore, digest_of, places
from milonga_hub.blobs.moving import copy_all
from milonga_hub.blobs.objects import ObjectBlobs
from milonga_hub.errors import BlobsUnreachable, FailedPrecondition, InvalidInput
from milonga_hub.settings import Settings

from tests.blobs.stores import in_memory
from tests.web.people import signed_in


@pytest.fixture
def url() -> Iterator[str]:
    """Return a place that lasts as long as this process."""
    name = f"hub-{uuid.uuid4().hex}"
    yield f"memory://{name}"
    store = fsspec.filesystem("memory")
    if store.exists(f"/{name}"):
        store.rm(f"/{name}", recursive=True)


def _hub(folder: Path, blobs: str = "") -> Hub:
    return Hub(Settings(data_dir=folder, blobs=blobs))


def test_a_hub_remembers_where_its_blobs_are(tmp_path: Path, url: str) -> None:
    hub = _hub(tmp_path, url)
    digest, picture = hub.blobs.put(b"weights"), hub.samples.pictures.put(b"a picture")
    hub.close()
    again = _hub(tmp_path)
    try:
        assert isinstance(again.blobs, ObjectBlobs)
        assert again.blobs.read(digest) == b"weights" and again.samples.pictures.read(picture) == b"a picture"
        assert not again.blobs.exists(picture) and not list(tmp_path.glob("blobs/*"))
    finally:
        again.close()


def test_blobs_are_never_looked_for_where_they_are_not(tmp_path: Path, url: str) -> None:
    hub = _hub(tmp_path)
    hub.blobs.put(b"weights")
    hub.close()
    with pytest.raises(FailedPrecondition, match=f"has its blobs in {tmp_path}, not in {url}: move them"):
        places.settled(tmp_path, url)
    places.record(tmp_path, url)
    with pytest.raises(FailedPrecondition, match="not in s3://other: move them"):
        places.settled(tmp_path, "s3://other")
    assert places.settled(tmp_path, url) == places.settled(tmp_path, "") == url


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("bucket", "is no place for blobs"),
        ("s3://", "is no place for blobs"),
        ("sftp://hub:secret@host/blobs", "names a place and no secrets"),
        ("s3://fleet/hub?secret=1", "names a place and no secrets"),
        ("nothing://fleet", "nothing://fleet"),
    ],
)
def test_a_url_that_is_no_place_is_refused_and_its_secrets_are_not_repeated(
    tmp_path: Path, wrong: str, told: str
) -> None:
    with pytest.raises(InvalidInput, match=told) as error:
        places.open_stores(tmp_path, wrong, 0)
    assert "secret@" not in str(error.value) and "secret=" not in str(error.value)


def test_a_missing_package_is_named_as_pip_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(FailedPrecondition, match=r"s3://fleet/hub need .*: pip install 'milonga-hub\[s3\]'"):
        places.open_stores(tmp_path, "s3://fleet/hub", 0)


def test_a_folder_that_is_mounted_is_used_as_a_folder(tmp_path: Path) -> None:
    stores = places.open_stores(tmp_path / "hub", (tmp_path / "mnt").as_uri(), 0)
    digest = stores.blobs.put(b"weights")
    assert stores.blobs.path(digest).is_relative_to(tmp_path / "mnt" / "blobs")


def test_copying_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    source, target = BlobStore(tmp_path / "source"), in_memory(tmp_path / "cache")
    digests = [source.put(bytes([number]) * 100) for number in range(40)]
    put_file, sent = target.put_file, 0

    def dying(path: Path) -> str:
        nonlocal sent
        sent += 1
        if sent > 20:
            raise BlobsUnreachable("cut off")
        return put_file(path)

    target.put_file = dying  # type: ignore[method-assign]
    with pytest.raises(BlobsUnreachable, match="cut off"):
        copy_all(source, target)
    target.put_file = put_file  # type: ignore[method-assign]
    there = len(list(target.all()))
    told: list[tuple[int, int]] = []
    copied = copy_all(source, target, lambda done, total: told.append((done, total)))
    assert (copied.there_count, copied.copied_count, copied.damaged) == (there, 40 - there, [])
    assert there > 0 and told[-1] == (4000, 4000)
    assert all(target.read(digest) == source.read(digest) for digest in digests)


def test_what_is_damaged_is_named_and_not_copied(tmp_path: Path) -> None:
    source, target = BlobStore(tmp_path / "source"), in_memory(tmp_path / "cache")
    good, bad = source.put(b"good"), source.put(b"bad")
    source.path(bad).write_bytes(b"BAD")
    copied = copy_all(source, target)
    assert copied.damaged == [bad] and target.exists(good) and not target.exists(bad)


def test_a_backup_says_where_blobs_stay_or_takes_them_along(tmp_path: Path, url: str) -> None:
    hub = _hub(tmp_path / "old", url)
    digest = hub.blobs.put(b"weights")
    hub.blobs.read(digest)
    small = back_up(hub.folder, tmp_path / "small.tar")
    whole = back_up(hub.folder, tmp_path / "whole.tar", with_blobs=True)
    hub.close()
    assert (small.about.blobs_elsewhere, whole.about.blobs_elsewhere) == (url, "")
    for backup, kind in ((small, ObjectBlobs), (whole, BlobStore)):
        new = _hub(restore(backup.path, tmp_path / f"new-{backup.path.stem}").data_dir)
        assert isinstance(new.blobs, kind) and new.blobs.read(digest) == b"weights"
        new.close()


def test_a_store_that_is_away_is_told_by_readiness_metrics_and_doctor(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = _hub(tmp_path, url)
    try:

        def away(*arguments: Any, **options: Any) -> None:
            raise ConnectionError("no route to host")

        with signed_in(cast(Any, hub)) as client:
            assert client.get("/readyz").json() == {"status": "ready", "leads": True}
            monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "info", away)
            monkeypatch.setattr("milonga_hub.blobs.watching._HELD_SECONDS", 0.0)
            ready = client.get("/readyz")
            assert ready.status_code == 200 and "no route to host" in ready.json()["blobs"]
            assert "milonga_blobs_up 0.0" in client.get("/metrics").text
        checks = {check.name: check for check in doctor.examine(Settings(data_dir=tmp_path))}
        assert checks["blobs"].result is doctor.Result.FAILED and "does not answer" in checks["blobs"].found
    finally:
        hub.close()


def test_calls_that_need_a_store_that_is_away_may_be_repeated(tmp_path: Path) -> None:
    from milonga_hub.transports.grpc_calls import code_of

    error = BlobsUnreachable("away")
    assert code_of(error).name == "UNAVAILABLE" and error.retry_after_seconds == 10.0
    assert digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
