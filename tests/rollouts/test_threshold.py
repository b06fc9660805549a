"""No luck makes a rollout exceed its failure threshold by more than the devices that were already on their way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from milonga_hub.builds.models import Build, BuildState
from milonga_hub.devices.assigning import Wanted
from milonga_hub.devices.models import Assignment, DeviceState
from milonga_hub.devices.values import AgentRelease, LastStep, Standing
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.assigning import Assigner
from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutDevice, RolloutDeviceState, RolloutState, Wave
from milonga_hub.rollouts.rules import (
    Assign,
    EndWave,
    Pause,
    Report,
    RollBack,
    Succeed,
    next_action,
    observed,
)
from milonga_hub.rollouts.rules_failures import too_many_failures
from milonga_hub.rollouts.rules_waves import Entrant, joined, plan_waves

BUNDLE = "sha256:new"
OLD = "sha256:old"
START = datetime(2026, 3, 1, tzinfo=UTC)


class HubDied(Exception):
    """The hub ended between giving out an assignment and noting it."""


@dataclass(frozen=True)
class Truth:
    """One device as it really is."""

    online: bool = True
    active: str = OLD
    reported: int = 0
    seen_at: datetime = START
    pinned: bool = False
    wish: Assignment | None = None

    @property
    def busy(self) -> bool:
        return self.wish is not None and self.reported < self.wish.generation

    @property
    def failed(self) -> bool:
        """Whether it was given the new build, has ended with it, and does not serve it."""
        ours = self.wish is not None and self.wish.bundle == BUNDLE
        return ours and not self.busy and self.active != BUNDLE


class Fleet:
    """Devices and builds in memory, as rollouts see them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.truths = {name: Truth() for name in names}
        self.given: list[str] = []
        # How many assignments the hub survives.
        self.lives: int | None = None

    def standings(self) -> list[Standing]:
        return [self.standing(name) for name in sorted(self.truths)]

    def standing(self, name: str) -> Standing:
        truth = self.truths[name]
        generation = truth.wish.generation if truth.wish else 0
        state = DeviceState.ONLINE if truth.online else DeviceState.OFFLINE
        return Standing(
            name, "pi", state, False, {}, truth.seen_at, generation, truth.reported, truth.active, "", True, "UTC"
        )

    def assignment(self, device: str) -> Assignment | None:
        return self.truths[device].wish

    def last_steps(self, generations: Mapping[str, int]) -> dict[str, LastStep]:
        return {}

    def assign_all(self, wanted: Sequence[Wanted]) -> dict[str, int]:
        """Give out all or none, and then perhaps die."""
        if self.lives is not None:
            self.lives -= 1
            if self.lives < 0:
                raise HubDied
        generations = {each.device: self.assign(each) for each in wanted}
        if self.lives == 0:
            raise HubDied
        return generations

    def assign(self, wanted: Wanted) -> int:
        device, bundle, truth = wanted.device, wanted.bundle, self.truths[wanted.device]
        wish = truth.wish
        if wish is not None and (wish.bundle, wish.project) == (bundle, wanted.project):
            gave_up = truth.reported >= wish.generation and truth.active != bundle
            if not (wanted.again and gave_up):
                return wish.generation
        generation = max(wish.generation if wish else 0, truth.reported) + 1
        wish = Assignment(device=device, generation=generation, bundle=bundle, project=wanted.project)
        self.truths[device] = replace(truth, wish=wish)
        if bundle == BUNDLE:
            self.given.append(device)
        return generation

    def agent_release(self) -> AgentRelease:
        raise AssertionError("no rollout of these tests brings agents")

    def upgrade_all(self, names: Sequence[str]) -> dict[str, int]:
        raise AssertionError("no rollout of these tests brings agents")

    def chosen(self, model_version: str) -> dict[str, Build]:
        return {}

    def by_bundle(self, digest: str) -> Build | None:
        return Build(
            name="b",
            model_version="v",
            device_type="pi",
            engine="onnxruntime",
            precision="fp32",
            state=BuildState.VERIFIED,
            bundle=digest,
        )


class AnyLuck(RuleBasedStateMachine):
    """Devices fail, vanish, fall back and join, clocks jump, the hub is killed; a person never resumes."""

    @initialize(
        count=st.integers(1, 12),
        ratio=st.sampled_from([0.0, 0.1, 0.34, 0.5]),
        limit=st.integers(0, 3),
        sizes=st.lists(st.integers(1, 3), max_size=2),
        late=st.sampled_from([None, 0.0, 100.0]),
        windows=st.sampled_from([[], ["00:00-12:00"]]),
        roll_back=st.booleans(),
    )
    def begin(
        self,
        count: int,
        ratio: float,
        limit: int,
        sizes: list[int],
        late: float | None,
        windows: list[str],
        roll_back: bool,
    ) -> None:
        names = [f"d{index:02}" for index in range(count)]
        self.now = START
        self.fleet = Fleet(names)
        spec = RolloutSpec(
            waves=[0.5, 0.5],
            wave_sizes=sizes,
            soak_seconds=60,
            max_failure_ratio=ratio,
            max_concurrent=limit,
            late_after_seconds=late,
            windows=windows,
            roll_back=roll_back,
        )
        waves = plan_waves(names, spec.waves, "seed", spec.wave_sizes)
        wave_of = {name: index for index, wave in enumerate(waves) for name in wave}
        self.rollout = Rollout(
            id="r",
            project="p",
            model_version="v",
            selector="",
            spec=spec,
            waves=[Wave(index=index, device_count=len(wave)) for index, wave in enumerate(waves)],
            devices=[self._entrant(name).member(wave_of[name]) for name in names],
        )

    def _entrant(self, name: str) -> Entrant:
        device = self.fleet.standing(name)
        why_not = "it is pinned" if self.fleet.truths[name].pinned else ""
        return Entrant(name, BUNDLE, "b", generation=device.assigned_generation, why_not=why_not)

    def _name(self, data: st.DataObject, which: Callable[[Truth], bool]) -> str | None:
        names = [name for name, truth in sorted(self.fleet.truths.items()) if which(truth)]
        return data.draw(st.sampled_from(names)) if names else None

    @precondition(lambda self: any(truth.busy and truth.online for truth in self.fleet.truths.values()))
    @rule(data=st.data(), well=st.booleans())
    def a_device_ends(self, data: st.DataObject, well: bool) -> None:
        name = self._name(data, lambda truth: truth.busy and truth.online)
        if name is not None:
            truth = self.fleet.truths[name]
            assert truth.wish is not None
            active = truth.wish.bundle if well else truth.active
            self.fleet.truths[name] = replace(truth, reported=truth.wish.generation, active=active)

    @rule(data=st.data(), what=st.sampled_from(["falls back", "comes or goes", "pinned", "deleted", "taken"]))
    def something_happens_to_a_device(self, data: st.DataObject, what: str) -> None:
        name = self._name(data, lambda truth: what != "falls back" or (truth.active == BUNDLE and truth.online))
        if name is None:
            return
        truth = self.fleet.truths[name]
        if what == "falls back":
            self.fleet.truths[name] = replace(truth, active=OLD)
        elif what == "comes or goes":
            self.fleet.truths[name] = replace(truth, online=not truth.online, seen_at=self.now)
        elif what == "pinned":
            self.fleet.truths[name] = replace(truth, pinned=not truth.pinned)
        elif what == "taken":
            self.fleet.assign(Wanted(name, "sha256:other", [], "o", "other", "e"))
        elif len(self.fleet.truths) > 1:
            del self.fleet.truths[name]

    @rule(number=st.integers(0, 20), seconds=st.sampled_from([-1e6, -100, 1, 61, 3600, 43200, 1e6]))
    def the_clock_jumps_and_a_device_joins(self, number: int, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.fleet.truths.setdefault(f"d{number:02}", Truth(seen_at=self.now))

    @rule()
    def the_hub_looks(self) -> None:
        self._look(lives=None)

    @rule(lives=st.integers(0, 3))
    def the_hub_looks_and_may_die(self, lives: int) -> None:
        self._look(lives)

    def _look(self, lives: int | None) -> None:
        """Carry the rollout as far as it goes; a hub that dies knows afterwards what it had written down."""
        written, given = self.rollout.model_copy(deep=True), len(self.fleet.given)
        exceeded = self._exceeded() or self.rollout.state is RolloutState.PAUSED
        self.fleet.lives = lives
        try:
            self._carry()
        except HubDied:
            self.rollout = written
        self.fleet.lives = None
        if exceeded:
            assert len(self.fleet.given) == given, "no device begins after too many have failed"
            if lives is None:
                assert self.rollout.state is RolloutState.PAUSED

    def _carry(self) -> None:
        rollout = self.rollout
        if rollout.state is RolloutState.PAUSED:
            return
        reports = self._reports()
        rollout.devices, rollout.waves = observed(rollout, reports, self.now)
        if not too_many_failures(rollout):
            rollout.devices, rollout.waves = joined(rollout, {name: self._entrant(name) for name in self.fleet.truths})
        assigner = Assigner(self.fleet, self.fleet)
        for _ in range(100):
            reports = self._reports()
            rollout.devices, rollout.waves = observed(rollout, reports, self.now)
            action = next_action(rollout, reports, self.now)
            if isinstance(action, Assign):
                assert action.devices
                members = [each for each in rollout.devices if each.device in action.devices]
                fleet = {each.device: self.fleet.standing(each.device) for each in members}
                generations = assigner.assign(rollout, members, fleet)
                rollout.devices = [
                    each.model_copy(update={"generation": generations.get(each.device, each.generation)})
                    for each in rollout.devices
                ]
            elif isinstance(action, EndWave):
                rollout.waves = [
                    wave.model_copy(update={"soaked_at": self.now}) if wave.index == action.wave else wave
                    for wave in rollout.waves
                ]
            elif isinstance(action, (Pause, RollBack)):
                # Of one that is taken back no device begins any more either.
                rollout.state = RolloutState.PAUSED
                return
            elif isinstance(action, Succeed):
                rollout.state = RolloutState.SUCCEEDED
                return
            else:
                return
        raise AssertionError("the rollout goes on and on without waiting for anything")

    def _reports(self) -> dict[str, Report]:
        return {
            name: Report(
                device=name,
                online=truth.online,
                assigned_generation=truth.wish.generation if truth.wish else 0,
                assigned_bundle=truth.wish.bundle if truth.wish else "",
                assigned_project=truth.wish.project if truth.wish else "",
                reported_generation=truth.reported,
                active_bundle=truth.active,
                seen_at=truth.seen_at,
            )
            for name, truth in self.fleet.truths.items()
        }

    def _exceeded(self) -> bool:
        """Whether more devices of a wave have failed than may; of a rollout that is over, those that were done count not."""
        for wave in self.rollout.waves:
            members = [d for d in self.rollout.devices if d.wave == wave.index and d.device in self.fleet.truths]
            taken = [d for d in members if d.generation and self._taken(d.device) and not self._serves(d)]
            members = [d for d in members if d not in taken]
            over = self.rollout.state is RolloutState.SUCCEEDED
            done = {d.device for d in members if over and d.state is RolloutDeviceState.SUCCEEDED}
            failed = [d for d in members if self.fleet.truths[d.device].failed and d.device not in done]
            if len(failed) > self.rollout.spec.max_failure_ratio * len(members) + 1e-9:
                return True
        return False

    def _serves(self, device: RolloutDevice) -> bool:
        """Whether it has ended well and still answers with the new build: that counts until it serves what it was given since."""
        truth = self.fleet.truths[device.device]
        return truth.reported >= device.generation and truth.active == BUNDLE

    def _taken(self, name: str) -> bool:
        wish = self.fleet.truths[name].wish
        return wish is not None and wish.project not in ("", "p")

    @invariant()
    def no_more_are_on_their_way_than_may_be(self) -> None:
        if (
            not hasattr(self, "rollout")
            or not self.rollout.spec.max_concurrent
            or self.rollout.spec.late_after_seconds is not None
        ):
            return
        under_way = [
            device
            for device in self.rollout.devices
            if device.wave != LEFT_OUT
            and device.generation
            and device.device in self.fleet.truths
            and self.fleet.truths[device.device].busy
            and not self._taken(device.device)
        ]
        assert len(under_way) <= self.rollout.spec.max_concurrent

    @invariant()
    def every_device_is_there_once(self) -> None:
        if hasattr(self, "rollout"):
            names = [device.device for device in self.rollout.devices]
            assert len(names) == len(set(names))
            assert all(0 <= d.wave < len(self.rollout.waves) for d in self.rollout.devices if d.wave != LEFT_OUT)


TestAnyLuck = AnyLuck.TestCase
# Without shrinking, which takes minutes here: the steps that are printed can be read as they are.
TestAnyLuck.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)
