"""Agents are upgraded some at a time, and no further where one does not come back well."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from milonga.v1 import devices_pb2 as pb
from milonga_agent import supervision
from milonga_hub.cli.batches import Stopped, Upgrade

NAMES = ["pi-1", "pi-2", "pi-3"]


class Fleet:
    """Devices that upgrade 10 s after they were asked, unless a test says otherwise; waiting takes no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: dict[str, float] = {}
        self.told: list[str] = []
        self.offline: set[str] = set()
        # Who runs the new agent before anybody asks: the hub wants nothing of them.
        self.had: set[str] = set()
        self.busy_seconds = 10.0
        self.interrupted_at = float("inf")
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
            upgrades=int(name in self.had or seconds >= self.busy_seconds),
            status_message=self.say(name, seconds),
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.interrupted_at:
            raise KeyboardInterrupt

    def upgrade(self, size: int) -> None:
        self.upgrading = Upgrade(NAMES, size, self.ask, self.look, lambda: self.now, self.sleep, self.told.append)
        self.upgrading.run()


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


def test_one_that_is_cut_off_says_who_has_upgraded_who_is_on_the_way_and_who_was_not_asked() -> None:
    fleet = Fleet()
    fleet.interrupted_at = 75
    with pytest.raises(KeyboardInterrupt):
        fleet.upgrade(1)
    assert fleet.upgrading.standing() == "upgraded: pi-1; on their way: pi-2; not asked: pi-3"


def test_given_again_it_goes_on_with_the_rest_and_watches_those_that_have_the_agent_beside_them() -> None:
    fleet = Fleet()
    fleet.had = {"pi-1", "pi-2"}
    fleet.upgrade(1)
    assert fleet.asked == {"pi-1": 0, "pi-2": 0, "pi-3": 0}
    assert fleet.told[:2] == ["pi-1, pi-2 have this agent already", "asked pi-3"]
    assert fleet.upgrading.standing() == "upgraded: pi-1, pi-2, pi-3"

    failing = Fleet()
    failing.had = {"pi-1"}
    failing.say = lambda name, seconds: (
        "the agent in a did not start, so the one before it runs" if name == "pi-1" else ""
    )
    with pytest.raises(Stopped, match="pi-1: the agent in a did not start"):
        failing.upgrade(1)
    assert [*failing.asked] == ["pi-1", "pi-2"]
    assert failing.upgrading.standing() == "on their way: pi-2; not asked: pi-3"


def test_what_an_agent_said_before_its_start_anew_is_not_held_against_the_new_one() -> None:
    fleet = Fleet()
    fleet.say = lambda name, seconds: "the agent in a did not start, so the one before it runs" if seconds < 20 else ""
    fleet.upgrade(1)
    assert [*fleet.asked] == NAMES


def test_who_is_off_line_is_not_waited_for_and_who_goes_away_or_does_nothing_stops_all() -> None:
    fleet = Fleet()
    fleet.offline = {"pi-1"}
    fleet.upgrade(1)
    assert [*fleet.asked] == NAMES and fleet.told[0] == "pi-1 off line, upgrades when it connects"

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
