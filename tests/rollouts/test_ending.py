"""What an aborted rollout tells of its devices."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from milonga.v1 import rollouts_pb2
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.models import Rollout, RolloutDevice, RolloutDeviceState, RolloutState
from milonga_hub.rollouts.rpc import RolloutRpc
from milonga_hub.rollouts.rules_ending import seen
from milonga_hub.web.views import shown as published

from tests.rollouts.fleet import Fleet, bundle_of, version_name

_TWO_WAVES = RolloutSpec(waves=[0.75, 0.25], soak_seconds=0)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, dict.fromkeys(("pi-1", "pi-2", "pi-3", "pi-4"), "pi5"))


def begun(fleet: Fleet, version: int = 1) -> tuple[Rollout, list[str], list[str]]:
    """Return a rollout whose first wave is on its way, and the devices of both waves."""
    id = fleet.rollouts.create(version_name(version), "digits", "", _TWO_WAVES).id
    fleet.rollouts.advance()
    rollout = fleet.rollouts.get(id)
    first, second = ([each.device for each in rollout.devices if each.wave == index] for index in (0, 1))
    return rollout, first, second


def shown(fleet: Fleet, id: str) -> dict[str, RolloutDevice]:
    return {each.device: each for each in seen(fleet.rollouts.get(id)).devices}


def test_an_aborted_rollout_tells_who_was_told_to_take_it_and_whom_it_had_not_reached(fleet: Fleet) -> None:
    rollout, (done, on_its_way, off_line), (behind,) = begun(fleet)
    fleet.disconnect(off_line)
    fleet.obey(done)
    fleet.rollouts.advance()
    assert [each.state for each in shown(fleet, rollout.id).values() if each.device == on_its_way] == [
        RolloutDeviceState.ASSIGNED
    ], "while it goes on"
    fleet.rollouts.abort(rollout.id)
    devices = shown(fleet, rollout.id)
    assert {name: device.state for name, device in devices.items()} == {
        done: RolloutDeviceState.SUCCEEDED,
        on_its_way: RolloutDeviceState.TOLD,
        off_line: RolloutDeviceState.TOLD,
        behind: RolloutDeviceState.SKIPPED,
    }
    assert devices[on_its_way].message.endswith(f"milonga devices show {on_its_way}")
    assert "changed nothing" in devices[behind].message
    fleet.connect(off_line)
    fleet.obey()
    fleet.rollouts.advance()
    assert {name for name, bundle in fleet.serving().items() if bundle == bundle_of(1)} == {done, on_its_way, off_line}


def test_a_device_of_a_superseded_rollout_is_not_shown_as_assigned(fleet: Fleet) -> None:
    old, first, second = begun(fleet, 1)
    begun(fleet, 2)
    states = {name: device.state for name, device in shown(fleet, old.id).items()}
    assert states == {
        **dict.fromkeys(first, RolloutDeviceState.TOLD),
        **dict.fromkeys(second, RolloutDeviceState.SKIPPED),
    }


def test_the_protocol_and_events_tell_the_same(fleet: Fleet) -> None:
    rollout, first, _ = begun(fleet)
    rpc = RolloutRpc(fleet.rollouts, fleet.events, lambda version: pytest.fail(version))
    answer = asyncio.run(rpc.AbortRollout(rollouts_pb2.AbortRolloutRequest(id=rollout.id), None))
    told = {each.device for each in answer.rollout.devices if each.state == rollouts_pb2.ROLLOUT_DEVICE_STATE_TOLD}
    assert told == {*first}
    event = published(fleet.rollouts.get(rollout.id))
    assert {each.device for each in event.devices if each.state is RolloutDeviceState.TOLD} == told
    assert all(each.state is not RolloutDeviceState.TOLD for each in fleet.rollouts.get(rollout.id).devices), (
        "what is kept stays as hubs of before know it"
    )
    assert fleet.rollouts.get(rollout.id).state is RolloutState.ABORTED
