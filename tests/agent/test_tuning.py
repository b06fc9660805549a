"""A whole agent is asked to time kernels: it follows them to a key that it trusts before it runs any, and serves on."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from milonga_hub.builds.sessions import OpenSession, TuningSessions
from milonga_hub.devices import timing
from milonga_hub.devices.timing import Timed
from milonga_hub.devices.values import TimingItem
from milonga_hub.errors import FailedPrecondition

from tests.agent.test_agent import online
from tests.devices.world import World, run
from tests.signing.ready import signing


@pytest.fixture(autouse=True)
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the hub believe that the device has the runtime: whether it has is the agent's to say."""
    monkeypatch.setattr(timing, "times_kernels", lambda device: True)


def _item(world: World, session: OpenSession, signer: OpenSession) -> TimingItem:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("0.so", b"no library")
        listed = [{"file": "0.so", "arguments": [{"dtype": "float32", "shape": [1]}]}]
        archive.writestr("kernels.json", json.dumps(listed))
    kernels = world.file(packed.getvalue(), "kernels.zip")
    return TimingItem(session.file, kernels, signer.sign(kernels.digest), 1, 0.1, 30.0, 60.0)


async def _timed(world: World, session: OpenSession, signer: OpenSession) -> Timed:
    kind = world.devices.get("pi-1").device_type
    return await world.devices.time_kernels(kind, _item(world, session, signer))


def test_kernels_are_run_only_where_a_trusted_key_has_signed_them(tmp_path: Path) -> None:
    async def story() -> None:
        async with online(tmp_path) as agent:
            world = agent.world
            mine = TuningSessions(tmp_path / "mine", world.blobs, world.signing).open("digits", "pi")
            strangers = signing(tmp_path / "strange")
            theirs = TuningSessions(tmp_path / "theirs", world.blobs, strangers).open("digits", "pi")
            with pytest.raises(FailedPrecondition, match="nobody whom this device trusts has signed"):
                await _timed(world, theirs, theirs)
            with pytest.raises(FailedPrecondition, match="not signed by the key of their tuning session"):
                await _timed(world, mine, theirs)
            # What is no library fails by itself, or there is no runtime to load it with.
            try:
                (found,) = (await _timed(world, mine, mine)).kernels
            except FailedPrecondition as error:
                assert "milonga-agent[tvm]" in str(error)
            else:
                assert found.error
            assert not (agent.folder / "tuning").exists(), "nothing of it stays on the device"

    run(story(), seconds=300)
