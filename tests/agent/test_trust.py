"""A device installs what its project's keys have signed, and nothing else, whatever it is served and whatever its clock says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from milonga_agent.daemon import Agent, Options
from milonga_agent.errors import AgentError, HubUnreachable, Untrusted
from milonga_agent.trust import verify
from milonga_agent.trusting import Trust, read_root
from milonga_hub.db import utc_now
from milonga_hub.errors import NotFound
from milonga_hub.signing.service import SigningService
from tuf.api.exceptions import DownloadError

from tests.signing.attacks import ATTACKS, Fetcher, Serve, Snapshot, Victim, stolen_online_keys
from tests.signing.ready import signing

GOOD, EVIL = "sha256:" + "a" * 64, "sha256:" + "b" * 64
SIZE = 100


class Device:
    """A device that joined the hub, with a folder of its own."""

    def __init__(self, folder: Path, hub: SigningService) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "first_root.json").write_bytes(hub.metadata("1.root.json"))

    def verify(self, bundle: str, serve: Serve | None, now: datetime | None = None, size: int = SIZE) -> None:
        verify(self.folder, f"digits/{bundle[7:]}", bundle, size, Fetcher(serve), now)


@pytest.fixture
def hub(tmp_path: Path) -> SigningService:
    made = signing(tmp_path / "signing")
    made.sign("digits", {GOOD: SIZE})
    return made


@pytest.fixture
def device(tmp_path: Path, hub: SigningService) -> Device:
    return Device(tmp_path / "trust", hub)


def test_what_the_project_signed_is_installed_again_and_again(device: Device, hub: SigningService) -> None:
    device.verify(GOOD, hub.metadata)
    device.verify(GOOD, hub.metadata)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("seen", [False, True], ids=["at first", "later"])
def test_an_attack_is_refused(
    device: Device, hub: SigningService, attack: Callable[[Victim], Serve], seen: bool
) -> None:
    if seen:
        device.verify(GOOD, hub.metadata)
    with pytest.raises(Untrusted, match=ATTACKS[attack]):
        device.verify(EVIL, attack(Victim(hub, "digits", EVIL, SIZE)))


def test_a_bundle_that_was_withdrawn_does_not_come_back(device: Device, hub: SigningService) -> None:
    before = Snapshot(hub.folder / "metadata")
    hub.sign("digits", {EVIL: SIZE})
    device.verify(EVIL, hub.metadata)
    with pytest.raises(Untrusted, match="older than"):
        device.verify(GOOD, before)


def test_a_manifest_of_another_size_is_refused(device: Device, hub: SigningService) -> None:
    with pytest.raises(Untrusted, match="another digest or size"):
        device.verify(GOOD, hub.metadata, size=SIZE + 1)


def test_metadata_that_is_held_back_is_refused_after_a_day(device: Device, hub: SigningService) -> None:
    frozen = Snapshot(hub.folder / "metadata")
    device.verify(GOOD, frozen)
    hub.sign("digits", {EVIL: SIZE})
    with pytest.raises(Untrusted, match=r"has expired .*; this device's clock says"):
        device.verify(GOOD, frozen, utc_now() + timedelta(days=1, minutes=1))


def test_a_clock_that_was_reset_brings_nothing_back_to_life(device: Device, tmp_path: Path) -> None:
    hub = signing(tmp_path / "before", lambda: utc_now() - timedelta(days=5))
    hub.sign("digits", {GOOD: SIZE})
    device = Device(tmp_path / "other", hub)
    frozen = Snapshot(hub.folder / "metadata")
    lively = signing(tmp_path / "before")
    device.verify(GOOD, lively.metadata)
    for path in (device.folder / "metadata").glob("*.json"):
        path.unlink()
    with pytest.raises(Untrusted, match="expired"):
        device.verify(GOOD, frozen, datetime(1970, 1, 2, tzinfo=UTC))


def test_a_clock_that_starts_in_1970_installs_what_is_good(device: Device, hub: SigningService) -> None:
    device.verify(GOOD, hub.metadata, datetime(1970, 1, 2, tzinfo=UTC))


def test_a_clock_ahead_of_its_time_refuses_and_does_no_harm_once_it_is_right(
    device: Device, hub: SigningService
) -> None:
    with pytest.raises(Untrusted, match="2099-01-01"):
        device.verify(GOOD, hub.metadata, datetime(2099, 1, 1, tzinfo=UTC))
    device.verify(GOOD, hub.metadata)


def test_a_device_that_was_away_for_years_follows_the_keys(tmp_path: Path) -> None:
    long_ago = utc_now() - timedelta(days=900)
    hub = signing(tmp_path / "signing", lambda: long_ago)
    hub.sign("digits", {GOOD: SIZE})
    device = Device(tmp_path / "trust", hub)
    device.verify(GOOD, hub.metadata, long_ago)
    now = SigningService(hub.folder)
    for role in ("root", "targets", "timestamp", "snapshot", "project-digits", "root"):
        assert now.rotate(role, [], 1)
    device.verify(GOOD, now.metadata)


def test_a_key_that_was_replaced_signs_nothing_any_more(device: Device, hub: SigningService) -> None:
    attack = stolen_online_keys(Victim(hub, "digits", EVIL, SIZE))
    for role in ("timestamp", "snapshot"):
        hub.rotate(role, [], 1)
    root = hub.metadata("3.root.json")
    with pytest.raises(Untrusted, match="too few trusted keys"):
        device.verify(EVIL, lambda name: root if name == "3.root.json" else attack(name))


def test_what_a_power_cut_left_of_the_metadata_is_fetched_again(device: Device, hub: SigningService) -> None:
    device.verify(GOOD, hub.metadata)
    for path in [*(device.folder / "metadata").rglob("*.json"), device.folder / "metadata" / "verified_at"]:
        path.unlink()
        path.write_bytes(b"")
        device.verify(GOOD, hub.metadata)


def test_without_the_hub_nothing_is_known(device: Device) -> None:
    with pytest.raises(DownloadError):
        device.verify(GOOD, None)


def test_the_daemon_asks_a_process_of_its_own(tmp_path: Path, hub: SigningService) -> None:
    trust = Trust(tmp_path / "trust")

    async def fetch(name: str) -> bytes | None:
        try:
            return hub.metadata(name)
        except NotFound:
            return None

    async def away(name: str) -> bytes | None:
        raise HubUnreachable("no hub answers")

    asyncio.run(trust.check("digits", GOOD, SIZE, fetch))
    with pytest.raises(Untrusted, match="refused: nobody whom this device trusts has signed digits/bbbb"):
        asyncio.run(trust.check("digits", EVIL, SIZE, fetch))
    with pytest.raises(HubUnreachable, match="no hub answers"):
        asyncio.run(trust.check("digits", GOOD, SIZE, away))


def test_a_hub_that_signs_nothing_is_not_believed(tmp_path: Path) -> None:
    async def fetch(name: str) -> bytes | None:
        return None

    with pytest.raises(Untrusted, match="does not sign"):
        asyncio.run(Trust(tmp_path / "trust").check("digits", GOOD, SIZE, fetch))


def test_a_file_that_is_no_root_metadata_is_refused_before_anything_is_done_with_it(
    tmp_path: Path, hub: SigningService
) -> None:
    given = tmp_path / "given.json"
    with pytest.raises(AgentError, match=r"cannot read .*: No such file or directory; see --trusted-root"):
        read_root(given)
    for content in (b"kind: Project", b"\xff\x00", b"[]", b'{"signed": "root"}', hub.metadata("timestamp.json")):
        given.write_bytes(content)
        with pytest.raises(AgentError, match=r"is no root metadata: give --trusted-root"):
            Agent(Options(hub="127.0.0.1:1", data_dir=tmp_path / "device", name="pi", trusted_root=given))
    given.write_bytes(hub.metadata("1.root.json"))
    assert read_root(given) == hub.metadata("1.root.json")


def test_another_hub_is_not_believed_by_a_device_that_was_told_whom_to_trust(
    tmp_path: Path, hub: SigningService
) -> None:
    trust, impostor = Trust(tmp_path / "trust"), signing(tmp_path / "impostor")
    impostor.sign("digits", {EVIL: SIZE})
    trust.begin(hub.metadata("1.root.json"))
    with pytest.raises(Untrusted):
        verify(tmp_path / "trust", f"digits/{EVIL[7:]}", EVIL, SIZE, Fetcher(impostor.metadata))
