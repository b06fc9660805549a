"""milonga blobs: say where they are, and move them, beside a hub that runs and without one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from milonga_hub.app import Hub
from milonga_hub.blobs import BlobStore, places
from milonga_hub.blobs.objects import ObjectBlobs
from milonga_hub.settings import Settings

from tests.cli.conftest import Said

Run = Callable[..., Said]


def test_blobs_are_moved_to_a_store_and_back(tmp_path: Path, run: Run) -> None:
    url = f"memory://hub-{uuid.uuid4().hex}"
    data = tmp_path / "hub"
    hub = Hub(Settings(data_dir=data))
    digest, picture = hub.blobs.put(b"weights"), hub.samples.pictures.put(b"a picture")
    beside = run(["blobs", "move", "--to", url, "--data-dir", str(data)])
    assert beside.code == 0 and "The hub runs, and goes on with the old place." in beside.out
    assert places.recorded(data) == ""
    hub.close()
    moved = run(["blobs", "move", "--to", url, "--data-dir", str(data), "--json"])
    assert (moved.code, moved.json["moved"], moved.json["copied"], moved.json["there"]) == (0, True, 0, 2)
    assert run(["blobs", "status", "--data-dir", str(data), "--json"]).json == {
        "where": url,
        "blobs": {"count": 1, "size_bytes": 7},
        "samples": {"count": 1, "size_bytes": 9},
    }
    hub = Hub(Settings(data_dir=data))
    assert isinstance(hub.blobs, ObjectBlobs) and hub.blobs.read(digest) == b"weights"
    later = hub.blobs.put(b"kept elsewhere")
    hub.close()
    assert run(["blobs", "move", "--to", "disk", "--data-dir", str(data)]).code == 0
    hub = Hub(Settings(data_dir=data))
    assert isinstance(hub.blobs, BlobStore)
    assert hub.blobs.read(later) == b"kept elsewhere" and hub.samples.pictures.read(picture) == b"a picture"
    hub.close()
    again = run(["blobs", "move", "--to", "disk", "--data-dir", str(data)])
    assert again.code == 4 and "already" in again.err


def test_what_nothing_names_is_swept_while_no_hub_runs(tmp_path: Path, run: Run) -> None:
    data = tmp_path / "hub"
    hub = Hub(Settings(data_dir=data))
    lost = hub.blobs.put(b"of an import that was refused")
    sweep = ["blobs", "sweep", "--days", "0", "--data-dir", str(data)]
    running = run(sweep)
    assert running.code == 4 and "the hub runs" in running.err and hub.blobs.exists(lost)
    hub.close()
    told = run([*sweep, "--dry-run"])
    assert told.code == 0 and "1 blobs, 29 B, would be deleted; 0 stay." in told.out
    assert run([*sweep, "--json"]).json == {"count": 1, "size_bytes": 29, "kept": 0, "deleted": True}
    assert not BlobStore(data / "blobs").exists(lost)
