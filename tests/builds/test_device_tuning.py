"""What a build job asks of devices is signed so that they trust it, timed, and forgotten; whatever fails ends the tuning and no more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from milonga.tuning_session import read_session
from milonga_agent.kernels import verify
from milonga_compiler.timing import Library, Times, pack
from milonga_hub.blobs import BlobStore
from milonga_hub.builds.device_tuning import DeviceTuning, threads_of
from milonga_hub.builds.models import BuildTuning, TuningSite
from milonga_hub.builds.rules import asked_tuning, check_tuning
from milonga_hub.builds.sessions import TuningSessions
from milonga_hub.devices.models import Device, Inventory
from milonga_hub.devices.timing import Timed
from milonga_hub.devices.values import KernelTime, TimingItem
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.signing import keys
from milonga_hub.signing.service import SigningService

from tests.signing.ready import signing


class Hub:
    """What tuning on devices needs of a hub; devices answer whatever they are told to."""

    def __init__(self, folder: Path) -> None:
        self.now = datetime.now(UTC)
        self.blobs = BlobStore(folder / "blobs")
        self.signing: SigningService = signing(folder / "signing")
        self.sessions = TuningSessions(folder / "tuning", self.blobs, self.signing, lambda: self.now)
        self.times: list[KernelTime] | FailedPrecondition = [KernelTime(ms=2.0), KernelTime(error="it crashed")]
        self.asked: list[tuple[TimingItem, str, str]] = []
        library = folder / "kernel.so"
        library.write_bytes(b"a library")
        self.kernels = folder / "kernels.zip"
        pack([Library(library, (("float32", (1, 8)),))] * 2, self.kernels)

    def matching(self, selector: str) -> list[Device]:
        return []

    async def time_kernels(
        self,
        device_type: str,
        item: TimingItem,
        wanted: str = "",
        preferred: str = "",
        *,
        tell: Callable[[str], None] = lambda words: None,
    ) -> Timed:
        assert self.blobs.exists(item.session.digest) and self.blobs.exists(item.kernels.digest)
        self.asked.append((item, wanted, preferred))
        if isinstance(self.times, FailedPrecondition):
            raise self.times
        return Timed("pi-1", self.times, 4.0)

    def ask(self, count: int = 1) -> Times:
        tuning = DeviceTuning("digits", "pi", "", self.sessions, self, lambda words: None)
        answers = [asyncio.run(tuning.answer({"kernels": str(self.kernels)})) for _ in range(count)]
        return Times.from_json(answers[-1])


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def test_kernels_go_out_signed_as_agents_demand_and_leave_nothing_behind(hub: Hub) -> None:
    assert hub.ask(2) == Times((2.0, None), ("", "it crashed"), "pi-1", 4.0)
    (first, _, before), (item, _, preferred) = hub.asked
    assert (before, preferred, item.count) == ("", "pi-1", 2), "it keeps to one device"
    session = hub.blobs.read(item.session.digest)
    assert first.session == item.session and read_session(session).project == "digits"
    verify(session, item.session.digest, item.kernels.digest, item.signature, hub.now.timestamp())
    assert hub.signing.is_signed("digits", item.session.digest)
    assert not hub.blobs.exists(item.kernels.digest)


def test_a_device_that_is_not_there_ends_the_tuning_with_why(hub: Hub) -> None:
    hub.times = FailedPrecondition("no device of type pi was connected for 600 s")
    assert hub.ask() == Times(gone="no device of type pi was connected for 600 s")


def test_a_session_is_kept_over_starts_of_the_hub_and_renewed_before_it_ends(hub: Hub, tmp_path: Path) -> None:
    first = hub.sessions.open("digits", "pi").file
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "tuning").iterdir()] == [0o600]
    hub.sessions = TuningSessions(tmp_path / "tuning", hub.blobs, hub.signing, lambda: hub.now)
    assert hub.sessions.open("digits", "pi").file == first != hub.sessions.open("digits", "orin").file
    hub.now += timedelta(days=6, minutes=1)
    assert hub.sessions.open("digits", "pi").file != first


def test_where_keys_are_elsewhere_their_owners_allow_a_tuning_first(hub: Hub, tmp_path: Path) -> None:
    hub.signing.export("targets", tmp_path / "stick")
    for _ in range(2):
        with pytest.raises(FailedPrecondition, match=r"is not signed yet .* milonga keys status"):
            hub.sessions.open("digits", "pi")
    waiting = [keys.read_private(path) for path in (tmp_path / "stick").glob("*.pem")]
    for path in hub.signing.staged_files():
        metadata = _signed_by(path, waiting)
        hub.signing.publish([metadata])
    assert hub.sessions.open("digits", "pi").file.size_bytes > 0


def _signed_by(path: Path, signers: list[Any]) -> Any:
    from milonga_hub.signing import rules

    metadata = rules.parse(path.read_bytes())
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata


def test_a_device_is_wanted_of_the_builds_type_and_its_threads_are_used() -> None:
    devices = [
        Device(name=name, device_type=kind, inventory=Inventory(threads=threads))
        for name, kind, threads in (("pi-1", "pi", 4), ("pi-2", "pi", 2), ("orin-1", "orin", 8))
    ]
    assert threads_of("pi", "", devices) == 2
    assert threads_of("pi", "pi-1", devices) == 4
    assert threads_of("pi", "", []) == 1
    with pytest.raises(FailedPrecondition, match="orin-1 is not a device of type pi; of that type: pi-1, pi-2"):
        threads_of("pi", "orin-1", devices)


def test_what_cannot_be_tuned_is_said_before_anything_begins() -> None:
    assert asked_tuning(0.0, None, "") is None
    asked = asked_tuning(5.0, None, "pi-1")
    assert asked == BuildTuning(site=TuningSite.DEVICE, minutes=5.0, wanted_device="pi-1")
    check_tuning("tvm", asked)
    with pytest.raises(InvalidInput, match="onnxruntime brings its kernels with it"):
        check_tuning("onnxruntime", asked)
    for minutes in (0.0, -1.0, float("nan"), 20_000.0):
        with pytest.raises(InvalidInput, match="more than 0 and at most"):
            check_tuning("tvm", BuildTuning(site=TuningSite.DEVICE, minutes=minutes))
    with pytest.raises(InvalidInput, match="on the hub or on pi-1"):
        check_tuning("tvm", BuildTuning(site=TuningSite.HUB, minutes=1.0, wanted_device="pi-1"))
