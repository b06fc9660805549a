"""Going back to the version before: by hand, or by itself where too much fails."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from milonga_hub.errors import FailedPrecondition
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutState
from milonga_hub.rollouts.needs import Requests
from milonga_hub.rollouts.service import RolloutService

from tests.rollouts.fleet import Fleet, bundle_of, version_name

SPEC = RolloutSpec(waves=[0.34, 0.66], soak_seconds=60, roll_back=True)
NAMES = ("pi-1", "pi-2", "pi-3")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Three devices that serve version 1."""
    fleet = Fleet(tmp_path, dict.fromkeys(NAMES, "pi5"))
    start(fleet, 1, RolloutSpec(waves=[1.0], soak_seconds=0))
    fleet.obey()
    fleet.rollouts.advance()
    return fleet


def start(fleet: Fleet, version: int, spec: RolloutSpec = SPEC, **values: Any) -> Rollout:
    rollout = fleet.rollouts.create(version_name(version), "digits", "", spec, **values)
    fleet.rollouts.advance()
    return rollout


def settle(fleet: Fleet) -> None:
    """Let devices and rollouts go as far as they go without time passing."""
    fleet.rollouts.advance()
    while fleet.obey():
        fleet.rollouts.advance()


def newest(fleet: Fleet) -> Rollout:
    return fleet.rollouts.list("digits")[0][0]


def test_where_too_many_fail_all_go_back_to_the_version_before(fleet: Fleet) -> None:
    taken = start(fleet, 2, RolloutSpec(waves=[1.0], max_failure_ratio=0.34, roll_back=True))
    fleet.faults = dict.fromkeys(("pi-1", "pi-2"), ("PROBE", "answers differ"))
    fleet.obey("pi-3")
    fleet.rollouts.advance()
    assert fleet.serving()["pi-3"] == bundle_of(2)
    fleet.obey()
    fleet.faults = {}
    fleet.rollouts.advance()
    settle(fleet)
    ended, back = fleet.rollouts.get(taken.id), newest(fleet)
    assert ended.state is RolloutState.ABORTED
    assert ended.reason.startswith(
        f"rolled back by {back.id}: wave 1: 2 of 3 devices failed (pi-1, pi-2: probe: answers differ"
    )
    assert (back.rolls_back, back.model_version, back.state) == (taken.id, version_name(1), RolloutState.SUCCEEDED)
    assert set(fleet.serving().values()) == {bundle_of(1)}


def test_devices_that_the_rollout_did_not_reach_are_left_alone(fleet: Fleet) -> None:
    before = {name: fleet.devices.get(name).assigned_generation for name in NAMES}
    taken = start(fleet, 2)
    (first,) = [each.device for each in taken.devices if each.wave == 0]
    fleet.obey()
    back = fleet.rollouts.roll_back(taken.id)
    settle(fleet)
    assert fleet.rollouts.get(taken.id).reason == f"rolled back by {back.id}"
    assert {name for name in NAMES if fleet.devices.get(name).assigned_generation != before[name]} == {first}
    assert set(fleet.serving().values()) == {bundle_of(1)}
    assert fleet.rollouts.roll_back(taken.id).id == back.id == newest(fleet).id, "to ask again changes nothing"


def test_each_device_goes_back_to_what_it_had_itself(fleet: Fleet) -> None:
    narrow = fleet.rollouts.create(version_name(2), "digits", "name=pi-1", RolloutSpec(waves=[1.0], soak_seconds=0))
    settle(fleet)
    taken = start(fleet, 3, RolloutSpec(waves=[1.0], soak_seconds=0))
    settle(fleet)
    fleet.join("pi-4", "pi5")
    fleet.devices.pin("pi-3", version_name(3))
    settle(fleet)
    back = fleet.rollouts.roll_back(taken.id)
    settle(fleet)
    fleet.join("pi-5", "pi5")
    fleet.pass_time(60)
    settle(fleet)
    assert fleet.serving() == {
        "pi-1": bundle_of(2), "pi-2": bundle_of(1), "pi-3": bundle_of(3), "pi-4": bundle_of(3), "pi-5": ""
    }  # fmt: skip
    said = {each.device: each.message for each in fleet.rollouts.get(back.id).devices if each.wave == LEFT_OUT}
    assert said["pi-3"].startswith("it is pinned to digits/3")
    assert said["pi-4"] == "it had no version of digits before, and keeps this one"
    assert fleet.devices.assignment("pi-1").model_version == version_name(2)  # type: ignore[union-attr]
    assert fleet.rollouts.get(narrow.id).state is RolloutState.SUCCEEDED


def test_newcomers_get_what_was_not_taken_back(fleet: Fleet) -> None:
    taken = start(fleet, 2)
    fleet.obey()
    fleet.rollouts.roll_back(taken.id)
    settle(fleet)
    fleet.join("pi-4", "pi5")
    fleet.pass_time(60)
    settle(fleet)
    assert set(fleet.serving().values()) == {bundle_of(1)}


def test_one_that_succeeded_is_taken_back_by_hand_and_for_those_off_line_when_they_come(fleet: Fleet) -> None:
    taken = start(fleet, 2, RolloutSpec(waves=[1.0], soak_seconds=0))
    settle(fleet)
    assert fleet.rollouts.get(taken.id).state is RolloutState.SUCCEEDED
    fleet.disconnect("pi-2")
    back = fleet.rollouts.roll_back(taken.id)
    fleet.rollouts.advance()
    fleet.obey("pi-1", "pi-3")
    fleet.pass_time(1)
    fleet.rollouts.advance()
    assert fleet.rollouts.get(back.id).state is RolloutState.SUCCEEDED
    fleet.connect("pi-2")
    assert fleet.obey() == ["pi-2"]
    assert set(fleet.serving().values()) == {bundle_of(1)}


def test_what_succeeded_is_not_undone_by_a_device_that_joins_late_and_fails(fleet: Fleet) -> None:
    taken = start(fleet, 2, RolloutSpec(waves=[1.0], soak_seconds=0, roll_back=True))
    settle(fleet)
    fleet.faults["pi-4"] = ("PROBE", "answers differ")
    fleet.join("pi-4", "pi5")
    fleet.rollouts.advance()
    settle(fleet)
    assert fleet.rollouts.get(taken.id).state is RolloutState.PAUSED
    assert newest(fleet).id == taken.id


def test_without_a_version_before_it_pauses_and_says_so(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"pi-1": "pi5"})
    fleet.faults["pi-1"] = ("PROBE", "answers differ")
    rollout = start(fleet, 1)
    settle(fleet)
    paused = fleet.rollouts.get(rollout.id)
    assert paused.state is RolloutState.PAUSED
    assert paused.reason.endswith("it could not be rolled back: no device of digits-1 has a version to go back to")


def test_only_the_newest_is_taken_back_and_no_taking_back(fleet: Fleet) -> None:
    older, newer = start(fleet, 2), start(fleet, 3)
    with pytest.raises(FailedPrecondition, match=f"{newer.id} of digits is newer than {older.id}"):
        fleet.rollouts.roll_back(older.id)
    back = fleet.rollouts.roll_back(newer.id)
    with pytest.raises(FailedPrecondition, match=f"{back.id} took {newer.id} back"):
        fleet.rollouts.roll_back(back.id)


def test_a_hub_that_dies_while_it_takes_a_rollout_back_goes_on_with_that(fleet: Fleet) -> None:
    taken = start(fleet, 2)
    fleet.obey()
    back = fleet.rollouts.roll_back(taken.id)
    fleet.rollouts = fleet.restarted()
    fleet.rollouts.advance()
    settle(fleet)
    assert set(fleet.serving().values()) == {bundle_of(1)}
    assert fleet.rollouts.get(back.id).state is RolloutState.SUCCEEDED


class Clients:
    """What clients asked, by version, as telemetry tells it."""

    def __init__(self, fleet: Fleet) -> None:
        self.since: list[datetime] = []
        self.asked: dict[str, Requests] = {}
        fleet.rollouts = RolloutService(
            fleet.database, fleet.events, fleet.devices, fleet.builds, fleet.clock, self.told
        )

    def told(self, project: str, since: datetime, until: datetime) -> dict[str, Requests]:
        self.since.append(since)
        return self.asked


def test_requests_that_fail_more_often_than_elsewhere_take_a_version_back(fleet: Fleet) -> None:
    clients = Clients(fleet)
    taken = start(fleet, 2, RolloutSpec(soak_seconds=60, max_error_increase=0.02, roll_back=True))
    fleet.obey()
    clients.asked = {version_name(1): Requests(1000, 30), version_name(2): Requests(50, 6)}
    fleet.rollouts.advance()
    assert newest(fleet).id == taken.id, "of so few, 12 in 100 may be 5 in 100 and chance"
    clients.asked[version_name(2)] = Requests(600, 90)
    fleet.rollouts.advance()
    settle(fleet)
    said = "15.0% of 600 requests to models/digits/versions/2 failed, 3.0% of 1000 on devices without it"
    assert fleet.rollouts.get(taken.id).reason == f"rolled back by {newest(fleet).id}: {said}"
    assert set(fleet.serving().values()) == {bundle_of(1)}


def test_few_requests_decide_nothing_and_one_that_is_resumed_counts_anew(fleet: Fleet) -> None:
    clients = Clients(fleet)
    taken = start(fleet, 2, RolloutSpec(soak_seconds=60, max_error_increase=0.5))
    fleet.obey()
    clients.asked = {version_name(2): Requests(49, 49)}
    fleet.rollouts.advance()
    assert fleet.rollouts.get(taken.id).state is RolloutState.RUNNING
    clients.asked = {version_name(2): Requests(50, 49)}
    fleet.rollouts.advance()
    assert fleet.now - clients.since[-1] >= timedelta(days=1), "what devices were asked the day before would count"
    paused = fleet.rollouts.get(taken.id)
    assert paused.state is RolloutState.PAUSED
    assert paused.reason == "98.0% of 50 requests to models/digits/versions/2 failed; resume to count anew, or abort"
    fleet.pass_time(10)
    fleet.rollouts.resume(taken.id)
    clients.asked = {}
    fleet.rollouts.advance()
    assert fleet.now + timedelta(seconds=60) in clients.since
    assert fleet.rollouts.get(taken.id).state is RolloutState.RUNNING
