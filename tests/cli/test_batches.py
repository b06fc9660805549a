"""Agents are upgraded some at a time, and no further where one does not come back well."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from milonga.v1 import devices_pb2 as pb
from milonga_agent import supervision
from milonga_hub.cli.batches import Stopped, upgrade_in_batches

NAMES = ["pi-1", "pi-2", "pi-3"]


class Fleet:
    """Devices that upgrade 10 s after they were asked, unless a test says otherwise; waiting takes no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: dict[str, float] = {}
        self.told: list[str] = []
        self.offline: set[str] = set()
        self.busy_seconds = 10.0
        self.say: Callable[[str, float], str] = lambda name, seconds: ""

    def ask(self, name: str) -> pb.Device:
        self.asked[name] = self.now
        return self.look(name)

    def look(self, name: str) -> pb.Device:
        seconds = self.now - self.asked[name]
        return pb.Device(
            name=name,
            state=pb.DEVICE_STATE_OFFLINE if name in self.offline else pb.DEVICE_STATE_ONLINE,
            wanted_upgrades=1,
            upgrades=int(seconds >= self.busy_seconds),
            status_message=self.say(name, seconds),
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def upgrade(self, size: int) -> None:
        batches = [NAMES[first : first + size] for first in range(0, len(NAMES), size)]
        upgrade_in_batches(batches, self.ask, self.look, lambda: self.now, self.sleep, self.told.append)


def test_the_next_are_asked_once_those_before_have_run_the_new_agent_for_a_minute() -> None:
    fleet = Fleet()
    fleet.upgrade(2)
    assert fleet.asked == {"pi-1": 0, "pi-2": 0, "pi-3": 70}
    assert fleet.told[0] == "asked pi-1, pi-2"


def test_none_is_asked_after_one_that_did_not_take_the_new_agent() -> None:
    fleet = Fleet()
    fleet.say = lambda name, seconds: "the agent was not upgraded: it needs grpcio>=9" if seconds >= 10 else ""
    with pytest.raises(Stopped, match="pi-1: the agent was not upgraded: it needs grpcio>=9"):
        fleet.upgrade(1)
    assert [*fleet.asked] == ["pi-1"]


def test_what_an_agent_said_before_its_start_anew_is_not_held_against_the_new_one() -> None:
    fleet = Fleet()
    fleet.say = lambda name, seconds: "the agent in a did not start, so the one before it runs" if seconds < 20 else ""
    fleet.upgrade(1)
    assert [*fleet.asked] == NAMES


def test_who_is_off_line_is_not_waited_for_and_who_goes_away_or_does_nothing_stops_all() -> None:
    fleet = Fleet()
    fleet.offline = {"pi-1"}
    fleet.upgrade(1)
    assert [*fleet.asked] == NAMES and "pi-1 off line, upgrades when it connects" in fleet.told[0]

    gone = Fleet()
    gone.say = lambda name, seconds: gone.offline.add(name) or "" if seconds >= 10 else ""  # type: ignore[func-returns-value]
    with pytest.raises(Stopped, match="pi-1 is off line since 10 min"):
        gone.upgrade(1)

    idle = Fleet()
    idle.busy_seconds = 1e9
    with pytest.raises(Stopped, match="pi-1 has not upgraded within 10 min"):
        idle.upgrade(1)


def test_an_agent_whose_upgrade_did_not_start_says_it_in_words_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILONGA_AGENT_SWITCHED_BACK", "/opt/a")
    fleet, said = Fleet(), supervision.switched_back()
    fleet.say = lambda name, seconds: said
    with pytest.raises(Stopped, match="the agent in /opt/a did not start"):
        fleet.upgrade(1)
