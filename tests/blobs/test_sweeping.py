"""What nothing names is swept, and everything that anything names stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from milonga_hub.blobs import Blobs, BlobStore
from milonga_hub.blobs.sweeping import sweep
from milonga_hub.db import utc_now
from milonga_hub.devices.models import KnownBundle

from tests.blobs.stores import in_memory, on_fsspec_disk
from tests.web.filled import Services, pictures

SOON = timedelta(hours=1)


@pytest.fixture(params=["folder", "memory"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Services:
    made = Services(tmp_path)
    makers: dict[str, Callable[[], Blobs]] = {
        "folder": lambda: made.blobs,
        "memory": lambda: in_memory(tmp_path / "cache"),
    }
    blobs = makers[request.param]()
    made.blobs = made.datasets._blobs = blobs  # type: ignore[assignment]
    return made


def _import(hub: Services) -> list[str]:
    """Return the digests of the pictures of a data set."""
    archive = hub.folder / "digits.zip"
    archive.write_bytes(pictures(("0", "1"), each=4))
    version = hub.datasets.import_archive("digits", archive, append=False, strict=False)
    return [sample.digest for sample in hub.datasets.samples(version.name)[0]]


def test_what_nothing_names_goes_and_what_anything_names_stays(hub: Services) -> None:
    kept = _import(hub)
    weights, in_manifest = hub.blobs.put(b"weights"), hub.blobs.put(b"probe")
    manifest = hub.blobs.put(f'{{"files": [{{"digest": "{in_manifest}"}}]}}'.encode())
    in_run = hub.blobs.put(b"a supernet that a run goes on from")
    with hub.database.session() as session:
        session.add(KnownBundle(bundle=manifest))
        session.add(KnownBundle(bundle=weights))
    plan = hub.folder / "runs" / "digits" / "1" / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text(f'{{"base_supernet": "{in_run}"}}')
    lost = {hub.blobs.put(b"measured, and no more"), hub.blobs.put(b"of an import that was refused")}
    tried = sweep(hub.blobs, hub.database.engine, hub.folder, utc_now() + SOON, dry_run=True)
    assert tried.count == 2 and all(hub.blobs.exists(digest) for digest in lost)
    swept = sweep(hub.blobs, hub.database.engine, hub.folder, utc_now() + SOON)
    assert (swept.count, swept.size_bytes, swept.kept_count) == (2, tried.size_bytes, tried.kept_count)
    assert not any(hub.blobs.exists(digest) for digest in lost)
    assert all(hub.blobs.exists(digest) for digest in (*kept, weights, manifest, in_manifest, in_run))
    assert hub.datasets.samples("datasets/digits/versions/1")[1] == len(kept)


def test_what_came_lately_stays_whatever_names_it(tmp_path: Path) -> None:
    hub = Services(tmp_path)
    digest = hub.blobs.put(b"about to be named")
    assert sweep(hub.blobs, hub.database.engine, hub.folder, utc_now() - SOON).count == 0
    assert hub.blobs.exists(digest)


def test_parts_of_what_was_cut_off_go_too(tmp_path: Path) -> None:
    hub = Services(tmp_path)
    assert isinstance(hub.blobs, BlobStore)
    place = hub.blobs.path(hub.blobs.put(b"weights")).parent
    old, new = place / ".part-old", place / ".part-new"
    for part in (old, new):
        part.write_bytes(b"...")
    day_ago = utc_now().timestamp() - 2 * 86400
    os.utime(old, (day_ago, day_ago))
    sweep(hub.blobs, hub.database.engine, tmp_path, utc_now() - timedelta(days=1))
    assert (old.exists(), new.exists()) == (False, True)
    far = on_fsspec_disk(tmp_path / "fsspec")
    far._store.makedirs(f"{far._prefix}/.part")
    far._store.pipe_file(f"{far._prefix}/.part/cut-off", b"...")
    far.tidy(utc_now() - SOON)
    assert far._store.exists(f"{far._prefix}/.part/cut-off")
    far.tidy(utc_now() + SOON)
    assert not far._store.exists(f"{far._prefix}/.part/cut-off")
