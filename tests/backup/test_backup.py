"""A backup holds all of a hub, also of one that runs; a hub that is made of it goes on, and nothing that is not whole is one."""

from __future__ import annotations

import os
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from milonga_agent.errors import Untrusted
from milonga_agent.trust import verify
from milonga_hub.app import Hub
from milonga_hub.backup import restoring
from milonga_hub.backup.contents import ABOUT, DIGESTS
from milonga_hub.backup.making import back_up
from milonga_hub.backup.restoring import restore
from milonga_hub.devices.models import KnownBundle
from milonga_hub.errors import AlreadyExists, InvalidInput, ResourceExhausted
from milonga_hub.settings import Settings
from milonga_hub.signing.service import SigningService
from sqlmodel import select

from tests.signing.attacks import Fetcher

BUNDLE = "sha256:" + "a" * 64


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """Return a hub's services, open as while it runs."""
    made = Hub(Settings(data_dir=tmp_path / "old"))
    made.signing.prepare()
    made.signing.sign("digits", {BUNDLE: 100})
    made.blobs.put(b"a picture")
    runs = made.folder / "runs" / "digits-1"
    runs.mkdir(parents=True)
    (runs / "supernet.pt").write_bytes(b"weights")
    (made.folder / "deltas").mkdir(exist_ok=True)
    (made.folder / "deltas" / "cached").write_bytes(b"can be made again")
    yield made
    made.close()


def test_a_hub_is_made_of_its_backup(hub: Hub, tmp_path: Path) -> None:
    hub.devices.create_join_token({"site": "busan"})
    made = back_up(hub.folder, tmp_path / "hub.tar")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    restored = restore(made.path, tmp_path / "new")
    assert restored.about.fingerprint == hub.devices.authority.fingerprint and restored.unsigned == []
    assert restored.file_count == made.file_count
    # Of a hub that runs; its next start makes another.
    assert not (restored.data_dir / "local.key").exists()
    new = Hub(Settings(data_dir=restored.data_dir))
    try:
        assert [token.labels for token in new.devices.list_join_tokens()[0]] == [{"site": "busan"}]
        assert new.devices.authority.fingerprint == hub.devices.authority.fingerprint
        assert new.signing.is_signed("digits", BUNDLE)
        assert (new.folder / "runs" / "digits-1" / "supernet.pt").read_bytes() == b"weights"
        assert not (new.folder / "deltas" / "cached").exists()
        keys = (path for path in (new.folder / "signing" / "keys").iterdir() if path.suffix != ".pub")
        for path in (new.folder / "authority" / "authority.key", *keys):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    finally:
        new.close()


def test_devices_that_saw_later_versions_believe_the_hub_again(hub: Hub, tmp_path: Path) -> None:
    device = tmp_path / "trust"
    device.mkdir()
    (device / "first_root.json").write_bytes(hub.signing.metadata("1.root.json"))
    backup = back_up(hub.folder, tmp_path / "hub.tar")
    hub.signing.sign("digits", {"sha256:" + "b" * 64: 100})
    hub.signing.renew("timestamp")
    verify(device, f"digits/{BUNDLE[7:]}", BUNDLE, 100, Fetcher(hub.signing.metadata))
    new = Hub(Settings(data_dir=restore(backup.path, tmp_path / "new").data_dir))
    try:
        verify(device, f"digits/{BUNDLE[7:]}", BUNDLE, 100, Fetcher(new.signing.metadata))
    finally:
        new.close()


def test_without_going_ahead_they_would_not(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SigningService, "overtake", lambda self, versions: [])
    with pytest.raises(Untrusted):
        test_devices_that_saw_later_versions_believe_the_hub_again(hub, tmp_path)


def test_a_hub_that_is_written_to_is_backed_up_as_it_is_at_one_moment(hub: Hub, tmp_path: Path) -> None:
    stopping = threading.Event()

    def write() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            # A blob, and then a row that names it, as all of the hub does it.
            digest = hub.blobs.put(f"blob {number}".encode() * 2000)
            with hub.database.session() as session:
                session.add(KnownBundle(bundle=digest))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = [back_up(hub.folder, tmp_path / f"{number}.tar") for number in range(3)]
    finally:
        stopping.set()
        writer.join()
    counts = []
    for backup in made:
        new = Hub(Settings(data_dir=restore(backup.path, tmp_path / f"new-{backup.path.stem}").data_dir))
        with new.database.session() as session:
            named = [one.bundle for one in session.exec(select(KnownBundle))]
        assert all(new.blobs.exists(digest) for digest in named)
        counts.append(len(named))
        new.close()
    assert counts == sorted(counts) and counts[-1] > 0


def test_runs_are_left_out_where_that_is_wanted(hub: Hub, tmp_path: Path) -> None:
    made = back_up(hub.folder, tmp_path / "small.tar", with_runs=False)
    restored = restore(made.path, tmp_path / "new")
    assert not (restored.data_dir / "runs").exists()


def _damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "cut off":
        path.write_bytes(data[: len(data) // 2])
    elif how == "one bit":
        at = data.index(b"weights")
        path.write_bytes(data[:at] + b"Weights" + data[at + 7 :])
    elif how == "no tar":
        path.write_bytes(b"hello")
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["cut off", "one bit", "no tar", "not there"])
def test_what_is_not_a_whole_backup_makes_no_hub(hub: Hub, tmp_path: Path, how: str) -> None:
    made = back_up(hub.folder, tmp_path / "hub.tar")
    _damaged(made.path, how)
    with pytest.raises(InvalidInput, match=r"cut off|damaged|not a whole backup|there is no"):
        restore(made.path, tmp_path / "new")
    assert not (tmp_path / "new").exists() and not [*tmp_path.glob(".new*")]


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_backup_writes_nowhere_but_into_its_folder(hub: Hub, tmp_path: Path, name: str) -> None:
    made = back_up(hub.folder, tmp_path / "hub.tar")
    evil = tmp_path / "evil.tar"
    with tarfile.open(made.path) as source, tarfile.open(evil, "w") as target:
        for member in source:
            if member.name == DIGESTS:
                target.addfile(tarfile.TarInfo(name))
            target.addfile(member, source.extractfile(member))
    with pytest.raises(InvalidInput, match="no backup has"):
        restore(evil, tmp_path / "new")


def test_nothing_that_is_there_is_written_over(hub: Hub, tmp_path: Path) -> None:
    made = back_up(hub.folder, tmp_path / "hub.tar")
    with pytest.raises(AlreadyExists, match="choose another name"):
        back_up(hub.folder, made.path)
    with pytest.raises(AlreadyExists, match="not empty"):
        restore(made.path, hub.folder)


def test_a_full_disk_leaves_no_half_of_a_backup(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceExhausted, match="is full"):
        back_up(hub.folder, tmp_path / "hub.tar")
    assert not [*tmp_path.glob("*hub.tar*")]


def test_a_folder_without_a_hub_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--data-dir"):
        back_up(tmp_path, tmp_path / "hub.tar")


def test_a_backup_says_what_it_is_before_it_is_read_whole(hub: Hub, tmp_path: Path) -> None:
    made = back_up(hub.folder, tmp_path / "hub.tar")
    assert restoring.about(made.path) == made.about
    with tarfile.open(made.path) as archive:
        assert archive.getnames()[0] == ABOUT and archive.getnames()[-1] == DIGESTS
