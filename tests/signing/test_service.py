"""Small users have keys without doing anything; careful ones keep theirs elsewhere, and sign what waits."""

from __future__ import annotations

import json
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from milonga_hub.errors import AlreadyExists, FailedPrecondition, InvalidInput, NotFound
from milonga_hub.signing import keys, rules
from milonga_hub.signing.service import SigningService
from tuf.api.metadata import Metadata, Snapshot, Timestamp

from tests.signing.ready import signing

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def _sign(service: SigningService, folder: Path) -> bool:
    """Do what somebody with the keys in the folder does."""
    signed = []
    for path in service.staged_files():
        metadata = rules.parse(path.read_bytes())
        for key in folder.glob("*.pem"):
            metadata.sign(keys.read_private(key), append=True)
        signed.append(metadata)
    return service.publish(signed)


def _version(service: SigningService, role: str) -> int:
    return next(each.version for each in service.status() if each.role == role)


def test_keys_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    service = SigningService(tmp_path)
    assert service.prepare() and not service.prepare()
    private = list((tmp_path / "keys").glob("*.pem"))
    assert len(private) == 4
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in private)


def test_a_project_gets_its_own_key_with_its_first_build(tmp_path: Path) -> None:
    service = signing(tmp_path)
    assert not service.is_signed("digits", A)
    service.sign("digits", {A: 10})
    service.sign("digits", {A: 10, B: 20})
    assert service.is_signed("digits", A) and service.is_signed("digits", B) and not service.is_signed("dogs", A)
    assert _version(service, "project-digits") == 2


def test_signing_again_changes_nothing(tmp_path: Path) -> None:
    service = signing(tmp_path)
    service.sign("digits", {A: 10})
    before = service.metadata("timestamp.json")
    service.sign("digits", {A: 10})
    assert service.metadata("timestamp.json") == before


def test_only_metadata_is_served(tmp_path: Path) -> None:
    service = signing(tmp_path)
    for name in ("../keys/x.pem", "0.root.json", "9.root.json", "root.json", "/etc/passwd", ""):
        with pytest.raises(NotFound):
            service.metadata(name)


def test_what_the_hub_signs_alone_is_fresh_whenever_it_is_asked_for(tmp_path: Path) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    service = signing(tmp_path, lambda: now)
    service.sign("digits", {A: 10})
    for _ in range(20):
        now += timedelta(hours=30)
        timestamp = Metadata[Timestamp].from_bytes(service.metadata("timestamp.json")).signed
        assert timestamp.expires > now
        version = timestamp.snapshot_meta.version
        assert Metadata[Snapshot].from_bytes(service.metadata(f"{version}.snapshot.json")).signed.expires > now


def test_root_and_targets_are_renewed_a_month_before_they_end(tmp_path: Path) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    service = signing(tmp_path, lambda: now)
    service.sign("digits", {A: 10})
    now += timedelta(days=340)
    service.metadata("timestamp.json")
    assert [_version(service, role) for role in ("root", "targets", "project-digits")] == [2, 3, 2]


def test_an_end_that_only_others_can_put_off_is_said_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    service = signing(tmp_path / "hub", lambda: now)
    service.export("root", tmp_path / "stick")
    now += timedelta(days=340)
    service.metadata("timestamp.json")
    assert "milonga keys renew root" in caplog.text
    assert not service.renew("root")
    assert _sign(service, tmp_path / "stick")
    assert _version(service, "root") == 2


def test_keys_that_are_elsewhere_sign_what_waits(tmp_path: Path) -> None:
    service = signing(tmp_path / "hub")
    moved = service.export("targets", tmp_path / "stick")
    assert all(not (service.ring.folder / path.name).exists() for path in moved)
    service.sign("digits", {A: 10})
    assert not service.is_signed("digits", A)
    service.sign("digits", {B: 10})
    assert {path.name for path in service.staged_files()} == {"2.targets.json", "1.project-digits.json"}
    assert _sign(service, tmp_path / "stick")
    assert service.is_signed("digits", A) and service.is_signed("digits", B) and not service.staged_files()
    # The project's own key is here: its next builds need nobody.
    service.sign("digits", {"sha256:" + "c" * 64: 10})
    assert service.is_signed("digits", "sha256:" + "c" * 64)


def test_a_threshold_needs_as_many_people(tmp_path: Path) -> None:
    service = SigningService(tmp_path / "hub")
    service.prepare(key_count=3, threshold=2)
    service.export("root", tmp_path / "sticks")
    sticks = sorted((tmp_path / "sticks").glob("*.pem"))
    assert not service.rotate("timestamp", [], 1)
    (metadata,) = (rules.parse(path.read_bytes()) for path in service.staged_files())
    metadata.sign(keys.read_private(sticks[0]), append=True)
    assert not service.publish([metadata])
    status = next(each for each in service.status() if each.role == "root")
    assert (status.threshold, status.missing_signatures, status.version) == (2, 1, 1)
    metadata.sign(keys.read_private(sticks[2]), append=True)
    assert service.publish([metadata])
    assert _version(service, "root") == 2


def test_a_stranger_signs_in_vain(tmp_path: Path) -> None:
    service = signing(tmp_path / "hub")
    service.export("targets", tmp_path / "stick")
    service.sign("digits", {A: 10})
    stranger = keys.generate(tmp_path / "stranger")
    (wanted,) = next(each.key_ids for each in service.status() if each.role == "targets")
    said = f"only {keys.short(stranger.public_key.keyid)} has signed version 2 of targets, for which {keys.short(wanted)} may"
    with pytest.raises(InvalidInput, match=said):
        _sign(service, tmp_path / "stranger")
    assert not service.is_signed("digits", A)


def test_what_was_changed_on_the_way_is_not_published(tmp_path: Path) -> None:
    service = signing(tmp_path / "hub")
    service.export("root", tmp_path / "stick")
    service.rotate("timestamp", [], 1)
    (path,) = service.staged_files()
    content = json.loads(path.read_bytes())
    content["signed"]["roles"]["targets"]["threshold"] = 1
    content["signed"]["expires"] = "2099-01-01T00:00:00Z"
    with pytest.raises(InvalidInput, match="not the root metadata that waits"):
        service.publish([rules.parse(json.dumps(content).encode())])


def test_what_nobody_signed_or_what_is_in_force_already_is_said(tmp_path: Path) -> None:
    service = signing(tmp_path / "hub")
    service.export("root", tmp_path / "stick")
    service.renew("root")
    (metadata,) = (rules.parse(path.read_bytes()) for path in service.staged_files())
    with pytest.raises(
        InvalidInput, match=r"nobody has signed version 2 of root.*milonga keys sign 2\.root\.json --key"
    ):
        service.publish([metadata])
    assert _sign(service, tmp_path / "stick")
    with pytest.raises(InvalidInput, match="version 2 of root is in force already"):
        service.publish([metadata])


def test_signatures_of_strangers_come_not_into_force(tmp_path: Path) -> None:
    service = signing(tmp_path / "hub")
    service.export("root", tmp_path / "stick")
    service.renew("root")
    (metadata,) = (rules.parse(path.read_bytes()) for path in service.staged_files())
    for signer in (keys.generate(tmp_path / "stranger"), keys.read_private(*(tmp_path / "stick").glob("*.pem"))):
        metadata.sign(signer, append=True)
    assert service.publish([metadata])
    assert len(json.loads(service.metadata("2.root.json"))["signatures"]) == 1


def test_it_is_said_whose_signatures_would_do(tmp_path: Path) -> None:
    service = SigningService(tmp_path / "hub")
    service.prepare(key_count=3, threshold=2)
    service.export("root", tmp_path / "sticks")
    service.renew("root")
    root = next(each for each in service.status() if each.role == "root")
    assert root.lacking_key_ids == root.key_ids[:2]
    (metadata,) = (rules.parse(path.read_bytes()) for path in service.staged_files())
    metadata.sign(keys.read_private(tmp_path / "sticks" / f"{keys.short(root.key_ids[0])}.pem"), append=True)
    assert not service.publish([metadata])
    root = next(each for each in service.status() if each.role == "root")
    assert (root.missing_signatures, root.lacking_key_ids) == (1, root.key_ids[1:2])


def test_a_key_file_that_is_not_there_or_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read .*gone\.pem: No such file or directory$"):
        keys.read_private(tmp_path / "gone.pem")
    with pytest.raises(InvalidInput, match=r"cannot read .*gone\.pub: No such file or directory$"):
        keys.read_public(tmp_path / "gone.pub")
    made = keys.short(keys.generate(tmp_path).public_key.keyid)
    with pytest.raises(
        InvalidInput, match=rf"{made}\.pub is a public key; who signs needs the private one, {made}\.pem"
    ):
        keys.read_private(tmp_path / f"{made}.pub")
    (tmp_path / "words.pem").write_text("no key", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"words\.pem is not a private key that can be used"):
        keys.read_private(tmp_path / "words.pem")


def test_keys_of_other_machines_take_over(tmp_path: Path) -> None:
    service = signing(tmp_path / "hub")
    service.sign("digits", {A: 10})
    ids = [keys.generate(tmp_path / "office").public_key.keyid for _ in range(2)]
    made = [keys.read_public(tmp_path / "office" / f"{keys.short(id)}.pub") for id in ids]
    assert [key.keyid for key in made] == ids
    assert not service.rotate("project-digits", made, 2)
    assert _sign(service, tmp_path / "office")
    service.sign("digits", {B: 10})
    assert service.is_signed("digits", A) and not service.is_signed("digits", B)
    with pytest.raises(InvalidInput, match="cannot be reached"):
        service.rotate("root", made, 3)


def test_a_key_is_never_written_over_and_online_keys_stay(tmp_path: Path) -> None:
    service = signing(tmp_path / "hub")
    (key,) = next(each.here for each in service.status() if each.role == "root")
    (tmp_path / f"{keys.short(key)}.pem").touch()
    with pytest.raises(AlreadyExists, match="never written over"):
        service.export("root", tmp_path)
    with pytest.raises(InvalidInput, match="so its key stays"):
        service.export("timestamp", tmp_path)


def test_a_hub_without_its_online_key_says_how_to_go_on(tmp_path: Path) -> None:
    service = signing(tmp_path / "hub")
    (key,) = next(each.here for each in service.status() if each.role == "snapshot")
    (service.ring.folder / f"{keys.short(key)}.pem").unlink()
    with pytest.raises(FailedPrecondition, match=re.escape("milonga keys rotate snapshot")):
        service.sign("digits", {A: 10})
    assert service.rotate("snapshot", [], 1)
    service.sign("digits", {B: 10})
    assert service.is_signed("digits", B)


def test_a_hub_that_died_between_two_files_names_both_afterwards(tmp_path: Path) -> None:
    service = signing(tmp_path)
    service.sign("digits", {A: 10})
    before = {path.name: path.read_bytes() for path in (tmp_path / "metadata").iterdir()}
    service.sign("digits", {B: 10})
    for path in (tmp_path / "metadata").iterdir():
        # As if it had died before it wrote snapshot and timestamp.
        if "snapshot" in path.name or path.name == "timestamp.json":
            path.write_bytes(before[path.name]) if path.name in before else path.unlink()
    again = SigningService(tmp_path)
    again.prepare()
    timestamp = Metadata[Timestamp].from_bytes(again.metadata("timestamp.json")).signed
    snapshot = Metadata[Snapshot].from_bytes(again.metadata(f"{timestamp.snapshot_meta.version}.snapshot.json")).signed
    assert snapshot.meta["project-digits.json"].version == 2
