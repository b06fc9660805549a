"""Rollouts that bring the hub's own agent: some devices at a time, and no further where one does not come back well."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from milonga_hub.devices import rules_upgrades
from milonga_hub.devices.models import AgentUpgrade, AgentUpgradeState, DeviceState, File, ShadowSpec
from milonga_hub.devices.rules_upgrades import SILENT_AFTER, Said
from milonga_hub.devices.values import AgentRelease, AgentStatus, Hello, Standing
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.events import EventBus
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.carrying import Carrier
from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutDeviceState, RolloutState, Wave
from milonga_hub.rollouts.rules_agents import SETTLE, AgentRolloutSpec, entrants

from tests.rollouts.fleet import START, Fleet, version_name

OLD, NEW = "0.1.0+7", "0.2.0+8"
NAMES = ["pi-1", "pi-2", "pi-3"]
RELEASE = AgentRelease(File(path="manifest.json", digest="sha256:agent", size_bytes=1), (), 8, NEW)
NEXT = AgentRelease(File(path="manifest.json", digest="sha256:next", size_bytes=1), (), 9, "0.2.1+9")
ONE_AT_A_TIME = AgentRolloutSpec(max_concurrent=1)


class Agents(Fleet):
    """Devices whose agents take the release, or do not, when a test says so."""

    def __init__(self, folder: Path) -> None:
        self.versions: dict[str, str] = defaultdict(lambda: OLD)
        self._boots = 0
        super().__init__(folder, dict.fromkeys(NAMES, "pi5"))
        self.devices.offer_release(lambda: RELEASE)

    def hello(self, name: str) -> Hello:
        self._boots += 1
        inventory, boot = self.devices.get(name).inventory, f"boot-{self._boots}"
        return Hello(inventory=inventory, agent_version=self.versions[name], boot_id=boot, status=self.status[name])

    def asked(self) -> list[str]:
        """Return who has a wish that it has not done with, by name."""
        found = [self.devices.get(name) for name in self.status]
        return sorted(device.name for device in found if device.wanted_upgrades > device.upgrades)

    def comes_back(self, name: str, version: str = NEW, problem: str = "") -> None:
        """Start the device's agent anew, as this version."""
        self.versions[name] = version
        count = self.devices.get(name).wanted_upgrades
        self.status[name] = AgentStatus(upgrades=count, upgrade_problem=problem)
        self.disconnect(name)
        self.connect(name)

    def refuses(self, name: str) -> None:
        count = self.devices.get(name).wanted_upgrades
        self.tell(name, AgentStatus(upgrades=count, upgrade_problem="the agent was not upgraded: no room"))

    def begin(self, spec: AgentRolloutSpec = ONE_AT_A_TIME, selector: str = "") -> str:
        id = self.rollouts.upgrade_agents(selector, spec).id
        self.rollouts.advance()
        return id

    def well_for_a_minute(self) -> None:
        self.pass_time(SETTLE.total_seconds())
        self.rollouts.advance()


@pytest.fixture
def fleet(tmp_path: Path) -> Agents:
    return Agents(tmp_path)


def _states(rollout: Rollout) -> dict[str, str]:
    return {device.device: device.state.value for device in rollout.devices}


def test_the_next_is_told_once_one_has_run_the_new_agent_for_a_minute(fleet: Agents) -> None:
    id = fleet.begin()
    for _ in NAMES:
        (name,) = fleet.asked()
        fleet.comes_back(name)
        fleet.rollouts.advance()
        assert fleet.asked() == [], "it has not run the new one for a minute"
        fleet.well_for_a_minute()
    rollout = fleet.rollouts.get(id)
    assert rollout.state is RolloutState.SUCCEEDED and {*_states(rollout).values()} == {"SUCCEEDED"}
    assert (rollout.project, rollout.model_version, rollout.brings) == ("", "", f"agent {NEW}")


def test_none_is_told_after_one_that_refused_until_a_person_resumes(fleet: Agents) -> None:
    id = fleet.begin()
    (first,) = fleet.asked()
    fleet.refuses(first)
    fleet.rollouts.advance()
    rollout = fleet.rollouts.get(id)
    assert rollout.state is RolloutState.PAUSED and "the agent was not upgraded: no room" in rollout.reason
    assert fleet.asked() == []
    fleet.rollouts.resume(id)
    fleet.rollouts.advance()
    assert len(fleet.asked()) == 1 and fleet.rollouts.get(id).state is RolloutState.RUNNING


def test_one_that_falls_back_within_its_first_minute_has_failed(fleet: Agents) -> None:
    id = fleet.begin()
    (first,) = fleet.asked()
    fleet.comes_back(first)
    fleet.pass_time(30)
    fleet.comes_back(first, OLD, "the agent in a did not start, so the one before it runs")
    fleet.rollouts.advance()
    assert fleet.rollouts.get(id).state is RolloutState.PAUSED
    assert _states(fleet.rollouts.get(id))[first] == "FAILED"


def test_one_that_is_not_heard_of_again_has_failed_and_may_still_come_back(fleet: Agents) -> None:
    id = fleet.begin()
    (first,) = fleet.asked()
    fleet.disconnect(first)
    fleet.pass_time(SILENT_AFTER.total_seconds() + 1)
    fleet.rollouts.advance()
    assert fleet.rollouts.get(id).state is RolloutState.PAUSED
    assert "nothing was heard of it since" in fleet.rollouts.get(id).reason
    fleet.connect(first)
    fleet.comes_back(first)
    fleet.well_for_a_minute()
    assert _states(fleet.rollouts.get(id))[first] == "SUCCEEDED"


def test_as_many_may_fail_as_the_spec_allows(fleet: Agents) -> None:
    id = fleet.begin(ONE_AT_A_TIME.model_copy(update={"max_failure_ratio": 0.34}))
    (first,) = fleet.asked()
    fleet.refuses(first)
    fleet.rollouts.advance()
    (second,) = fleet.asked()
    assert second != first and fleet.rollouts.get(id).state is RolloutState.RUNNING


def test_a_hub_that_starts_anew_goes_on_where_the_last_one_stopped(fleet: Agents) -> None:
    id = fleet.begin()
    (first,) = fleet.asked()
    fleet.rollouts = fleet.restarted()
    fleet.rollouts.advance()
    assert fleet.asked() == [first] and fleet.devices.get(first).wanted_upgrades == 1
    fleet.comes_back(first)
    fleet.well_for_a_minute()
    (second,) = fleet.asked()
    assert _states(fleet.rollouts.get(id)) == {
        **dict.fromkeys(NAMES, "WAITING"),
        first: "SUCCEEDED",
        second: "ASSIGNED",
    }


def test_a_wish_that_the_hub_could_not_note_before_it_ended_is_its_own(fleet: Agents) -> None:
    id = fleet.rollouts.upgrade_agents("", AgentRolloutSpec()).id
    fleet.devices.upgrade_all(["pi-1"])
    fleet.restarted().advance()
    assert {fleet.devices.get(name).wanted_upgrades for name in NAMES} == {1}
    assert [device.generation for device in fleet.rollouts.get(id).devices] == [1, 1, 1]


def test_who_is_off_line_for_long_holds_up_nobody_and_is_told_when_it_connects(fleet: Agents) -> None:
    fleet.disconnect("pi-2")
    id = fleet.begin(AgentRolloutSpec(max_concurrent=2))
    assert fleet.asked() == ["pi-1", "pi-3"]
    for name in ("pi-1", "pi-3"):
        fleet.comes_back(name)
    fleet.pass_time(AgentRolloutSpec().late_after_seconds or 0)
    fleet.well_for_a_minute()
    rollout = fleet.rollouts.get(id)
    assert rollout.state is RolloutState.SUCCEEDED and rollout.reason.startswith("pi-2 off line for long")
    fleet.connect("pi-2")
    fleet.rollouts.advance()
    assert fleet.asked() == ["pi-2"]


def test_those_that_run_it_are_left_out_and_where_all_do_there_is_nothing_to_begin(fleet: Agents) -> None:
    for name in ("pi-1", "pi-2"):
        fleet.comes_back(name)
    id = fleet.begin()
    assert fleet.asked() == ["pi-3"]
    left_out = {device.device: device.message for device in fleet.rollouts.get(id).devices if device.wave < 0}
    assert left_out == dict.fromkeys(["pi-1", "pi-2"], "it runs this agent already")
    fleet.comes_back("pi-3")
    fleet.well_for_a_minute()
    with pytest.raises(FailedPrecondition, match=r"all 3 devices run agent 0\.2\.0\+8 already"):
        fleet.begin()


def test_one_at_a_time_is_open_and_it_can_be_ended(fleet: Agents) -> None:
    assert fleet.rollouts.upgrade_agents("", AgentRolloutSpec(), rehearse=True).devices
    id = fleet.begin()
    with pytest.raises(FailedPrecondition, match=r"agents\.1 upgrades agents and is running; .* abort agents\.1"):
        fleet.begin()
    fleet.rollouts.abort(id)
    assert fleet.begin() == "agents.2"


def test_what_is_about_models_alone_is_refused(fleet: Agents) -> None:
    with pytest.raises(InvalidInput, match="agents have no shadow"):
        fleet.begin(AgentRolloutSpec(shadow=ShadowSpec()))
    id = fleet.begin()
    with pytest.raises(FailedPrecondition, match="agents take no older release"):
        fleet.rollouts.roll_back(id)


def test_a_model_goes_its_way_beside_an_agent(fleet: Agents) -> None:
    model = fleet.rollouts.create(version_name(1), "digits", "", RolloutSpec(waves=[1.0], soak_seconds=0)).id
    agents = fleet.begin(AgentRolloutSpec())
    assert fleet.asked() == NAMES
    fleet.obey()
    fleet.rollouts.advance()
    assert fleet.rollouts.get(model).state is RolloutState.SUCCEEDED
    for name in NAMES:
        fleet.status[name] = fleet.status[name].model_copy(update={"upgrades": 1})
        fleet.versions[name] = NEW
        fleet.disconnect(name)
        fleet.connect(name)
    fleet.well_for_a_minute()
    assert fleet.rollouts.get(agents).state is RolloutState.SUCCEEDED
    assert fleet.rollouts.create(version_name(2), "digits", "", RolloutSpec(waves=[1.0])).id == "digits-2"


def _with_one_that_is_late(fleet: Agents) -> str:
    """Return an upgrade of all that has succeeded without pi-2, which is off line."""
    fleet.disconnect("pi-2")
    id = fleet.begin(AgentRolloutSpec(max_concurrent=2))
    for name in ("pi-1", "pi-3"):
        fleet.comes_back(name)
    fleet.pass_time(AgentRolloutSpec().late_after_seconds or 0)
    fleet.well_for_a_minute()
    assert fleet.rollouts.get(id).state is RolloutState.SUCCEEDED
    return id


def test_a_late_device_is_owed_what_an_upgrade_wanted_that_newer_ones_do_not_name_it_in(fleet: Agents) -> None:
    first = _with_one_that_is_late(fleet)
    fleet.join("pi-4", "pi5")
    second = fleet.begin(AgentRolloutSpec(), "name=pi-4")
    fleet.comes_back("pi-4")
    fleet.well_for_a_minute()
    fleet.connect("pi-2")
    fleet.rollouts.advance()
    assert fleet.asked() == ["pi-2"]
    fleet.comes_back("pi-2")
    fleet.well_for_a_minute()
    assert _states(fleet.rollouts.get(first))["pi-2"] == "SUCCEEDED" and fleet.rollouts.get(first).reason == ""
    assert _states(fleet.rollouts.get(second)) == {"pi-4": "SUCCEEDED"}


def test_of_two_upgrades_the_newest_that_names_a_device_has_it_also_where_it_was_aborted(fleet: Agents) -> None:
    first = _with_one_that_is_late(fleet)
    second = fleet.begin(ONE_AT_A_TIME, "name=pi-2")
    taken = next(each for each in fleet.rollouts.get(first).devices if each.device == "pi-2")
    assert (taken.wave, taken.message) == (LEFT_OUT, f"the newer rollout {second} took it")
    assert fleet.rollouts.get(first).reason == "left out pi-2"
    fleet.rollouts.abort(second)
    fleet.connect("pi-2")
    fleet.rollouts.advance()
    assert fleet.asked() == []


def test_a_late_device_that_fails_pauses_its_own_upgrade_which_is_seen_beside_the_newest(fleet: Agents) -> None:
    first = _with_one_that_is_late(fleet)
    fleet.join("pi-4", "pi5")
    second = fleet.begin(AgentRolloutSpec(), "name=pi-4")
    fleet.connect("pi-2")
    fleet.rollouts.advance()
    fleet.refuses("pi-2")
    fleet.rollouts.advance()
    assert fleet.rollouts.get(first).state is RolloutState.PAUSED
    assert fleet.rollouts.get(second).state is RolloutState.RUNNING
    assert fleet.rollouts.current_ids("") == [second, first]
    fleet.rollouts.resume(first)
    fleet.rollouts.advance()
    assert fleet.asked() == ["pi-2", "pi-4"], "pi-4 is on its way"


def test_who_failed_in_an_older_upgrade_can_be_asked_again(fleet: Agents) -> None:
    first = fleet.begin(AgentRolloutSpec(max_failure_ratio=0.5))
    fleet.refuses("pi-1")
    for name in ("pi-2", "pi-3"):
        fleet.comes_back(name)
    fleet.well_for_a_minute()
    assert fleet.rollouts.get(first).state is RolloutState.SUCCEEDED
    fleet.join("pi-4", "pi5")
    fleet.begin(AgentRolloutSpec(), "name=pi-4")
    fleet.comes_back("pi-4")
    fleet.well_for_a_minute()
    fleet.rollouts.retry(first)
    fleet.rollouts.advance()
    assert fleet.asked() == ["pi-1"]


def test_an_upgrade_tells_nobody_to_take_another_release_than_its_own(fleet: Agents) -> None:
    first = _with_one_that_is_late(fleet)
    fleet.join("pi-4", "pi5")
    fleet.join("pi-5", "pi5")
    second = fleet.begin(ONE_AT_A_TIME, "name in (pi-4, pi-5)")
    (told,) = fleet.asked()
    fleet.devices.offer_release(lambda: NEXT)
    fleet.comes_back(told)
    fleet.connect("pi-2")
    fleet.well_for_a_minute()
    assert fleet.asked() == []
    assert fleet.rollouts.get(second).state is RolloutState.PAUSED
    assert f"the hub's agent is {NEXT.version} by now" in fleet.rollouts.get(second).reason
    late = next(each for each in fleet.rollouts.get(first).devices if each.device == "pi-2")
    assert late.wave == LEFT_OUT and late.message.endswith("upgrade it anew")
    fleet.rollouts.abort(second)
    fleet.begin(AgentRolloutSpec())
    assert fleet.asked() == [*NAMES, "pi-4", "pi-5"]


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_whatever_comes_first_the_newest_upgrade_that_names_a_device_tells_it_and_no_other(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    fleet = Agents(tmp_path_factory.mktemp("agents"))
    away, told = set[str](), set[tuple[str, str, int]]()
    for _ in range(data.draw(st.integers(1, 12))):
        name = data.draw(st.sampled_from(NAMES))
        match data.draw(st.sampled_from(["upgrade", "abort", "come or go", "take it", "refuse it", "wait"])):
            case "upgrade":
                limit = data.draw(st.integers(0, 2))
                spec = AgentRolloutSpec(max_concurrent=limit, max_failure_ratio=1.0)
                with suppress(FailedPrecondition):
                    fleet.rollouts.upgrade_agents(data.draw(st.sampled_from(["", f"name={name}"])), spec)
            case "abort":
                for id in fleet.rollouts.current_ids(""):
                    with suppress(FailedPrecondition):
                        fleet.rollouts.abort(id)
            case "come or go" if name in away:
                fleet.connect(name)
                away.remove(name)
            case "come or go":
                fleet.disconnect(name)
                away.add(name)
            case "take it" if name in fleet.asked() and name not in away:
                fleet.comes_back(name)
            case "refuse it" if name in fleet.asked() and name not in away:
                fleet.refuses(name)
            case _:
                fleet.pass_time(700)
        fleet.rollouts.advance()
        upgrades = fleet.rollouts.list()[0]
        names = {each.id: {one.device for one in each.devices if one.wave != LEFT_OUT} for each in upgrades}
        for each in upgrades:
            for one in each.devices:
                wish = (each.id, one.device, one.generation)
                if one.generation and wish not in told:
                    newest = next(id for id, devices in names.items() if one.device in devices)
                    assert newest == each.id, f"{each.id} told {one.device}, which {newest} names"
                    told.add(wish)


class HubDied(Exception):
    """The hub ended between telling devices and noting so."""


@dataclass(frozen=True)
class Truth:
    """One device as the hub has it in its table, and what its agent does."""

    version: str = OLD
    online: bool = True
    seen_at: datetime = START
    wanted: int = 0
    counted: int = 0
    upgrade: AgentUpgrade | None = None

    @property
    def busy(self) -> bool:
        return self.wanted > self.counted


@dataclass
class InMemory:
    """Devices, and the one rollout, for the loop that carries rollouts; it can be made to die after it told devices."""

    truths: dict[str, Truth]
    now: datetime = START
    dies: bool = False
    told: list[str] = field(default_factory=list)
    rollout: Rollout = field(default_factory=lambda: Rollout(id="agents.1", project="", model_version=""))
    changing: AbstractContextManager[Any] = field(default_factory=threading.Lock)

    def standings(self) -> list[Standing]:
        return [
            Standing(
                name, "pi", DeviceState.ONLINE if each.online else DeviceState.OFFLINE, False, {}, each.seen_at, 0, 0,
                "", "", True, "UTC", each.version, each.wanted, each.upgrade,
            )
            for name, each in sorted(self.truths.items())
        ]  # fmt: skip

    def agent_release(self) -> AgentRelease:
        return RELEASE

    def upgrade_all(self, names: Sequence[str]) -> dict[str, int]:
        for name in names:
            truth = self.truths[name]
            state = DeviceState.ONLINE if truth.online else DeviceState.OFFLINE
            upgrade = rules_upgrades.wanted(NEW, state, self.now)
            self.truths[name] = replace(truth, wanted=max(truth.wanted, truth.counted) + 1, upgrade=upgrade)
            self.told.append(name)
        if self.dies:
            raise HubDied
        return {name: self.truths[name].wanted for name in names}

    def get(self, id: str) -> Rollout:
        return self.rollout.model_copy(deep=True)

    def claims(self, rollout: Rollout) -> dict[str, str]:
        return {}

    def save(self, changed: Sequence[Rollout], made: Sequence[Rollout]) -> None:
        (self.rollout,) = changed

    def tell(self, *rollouts: Rollout) -> None: ...


class AnyLuck(RuleBasedStateMachine):
    """Agents succeed, refuse, fall back and vanish, clocks jump, the hub is killed; a person never resumes."""

    @initialize(count=st.integers(1, 8), ratio=st.sampled_from([0.0, 0.2, 0.5]), limit=st.integers(0, 3))
    def begin(self, count: int, ratio: float, limit: int) -> None:
        self.gave_way = set[str]()
        self.fleet = InMemory({f"d{index}": Truth() for index in range(count)})
        spec = AgentRolloutSpec(max_concurrent=limit, max_failure_ratio=ratio)
        self.fleet.rollout.spec, self.fleet.rollout.agent_version = spec, NEW
        self.fleet.rollout.selector = ""
        self.fleet.rollout.devices = [each.member(0) for each in entrants(self.fleet.standings(), NEW, spec)]
        self.fleet.rollout.waves = [Wave(index=0, device_count=count)]
        anything = cast(Any, self.fleet)
        self.carrier = Carrier(
            anything, anything, EventBus(), anything, anything, lambda: self.fleet.now, lambda *asked: {}
        )

    @rule(data=st.data(), how=st.sampled_from(["succeeds", "refuses", "starts as it was"]))
    def one_ends(self, data: st.DataObject, how: str) -> None:
        busy = [name for name, truth in sorted(self.fleet.truths.items()) if truth.busy and truth.online]
        if busy:
            name = data.draw(st.sampled_from(busy))
            self._says(name, NEW if how == "succeeds" else OLD, "no room" if how == "refuses" else "")

    @rule(data=st.data())
    def one_falls_back(self, data: st.DataObject) -> None:
        runs = [name for name, truth in sorted(self.fleet.truths.items()) if truth.version == NEW and truth.online]
        if runs:
            self._says(data.draw(st.sampled_from(runs)), OLD, "it did not start")

    def _says(self, name: str, version: str, problem: str) -> None:
        truth = self.fleet.truths[name]
        assert truth.upgrade is not None
        upgrade = rules_upgrades.after(truth.upgrade, Said(True, version, problem, True), self.fleet.now)
        self.fleet.truths[name] = replace(truth, version=version, counted=truth.wanted, upgrade=upgrade)

    @rule(data=st.data())
    def one_comes_or_goes(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.fleet.truths)))
        truth = self.fleet.truths[name]
        upgrade = truth.upgrade
        if not truth.online and upgrade is not None:
            upgrade = rules_upgrades.after(upgrade, Said(not truth.busy, truth.version), self.fleet.now)
        self.fleet.truths[name] = replace(truth, online=not truth.online, seen_at=self.fleet.now, upgrade=upgrade)

    @rule(seconds=st.sampled_from([-1e6, -100, 1, 61, 601, 1e6]))
    def the_clock_jumps(self, seconds: float) -> None:
        self.fleet.now += timedelta(seconds=seconds)

    @rule(dies=st.booleans())
    def the_hub_looks(self, dies: bool) -> None:
        failed = self._failed() > self.fleet.rollout.spec.max_failure_ratio * len(self.fleet.truths)
        told, self.fleet.dies = len(self.fleet.told), dies
        with suppress(HubDied):
            self.carrier._advance(self.fleet.rollout.id)
        self.fleet.dies = False
        if failed:
            assert len(self.fleet.told) == told, "no agent begins after too many have failed"

    def _silent(self, truth: Truth) -> bool:
        return truth.upgrade is not None and rules_upgrades.is_silent(truth.upgrade, self.fleet.now)

    def _failed(self) -> int:
        """Return how many have failed as the rollout knew, or could have known, without those that it is done with."""
        rollout = self.fleet.rollout
        done = {
            each.device
            for each in rollout.devices
            if rollout.state is RolloutState.SUCCEEDED and each.state is RolloutDeviceState.SUCCEEDED
        }
        return sum(
            truth.upgrade is not None
            and name not in done
            and (truth.upgrade.state is AgentUpgradeState.FAILED or self._silent(truth))
            for name, truth in self.fleet.truths.items()
        )

    @invariant()
    def no_more_are_on_their_way_than_may_be(self) -> None:
        if not hasattr(self, "fleet") or not self.fleet.rollout.spec.max_concurrent:
            return
        # A device that was not heard of for too long gives its place away, and may come back after that.
        gone = {each.device for each in self.fleet.rollout.devices if each.late}
        self.gave_way |= gone | {name for name, truth in self.fleet.truths.items() if self._silent(truth)}
        under_way = {name for name, truth in self.fleet.truths.items() if truth.busy} - self.gave_way
        assert len(under_way) <= self.fleet.rollout.spec.max_concurrent


AnyLuck.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyLuck = AnyLuck.TestCase
