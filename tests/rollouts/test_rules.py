"""Waves, and what a rollout does next, for any fleet and any luck."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.models import LEFT_OUT, Rollout, RolloutDevice, RolloutDeviceState, Step, Wave
from milonga_hub.rollouts.rules import (
    Assign,
    EndWave,
    Pause,
    Report,
    Succeed,
    Wait,
    next_action,
    observed,
)
from milonga_hub.rollouts.rules_waves import plan_waves

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BUNDLE = "sha256:new"
NAMES = st.lists(st.text("abc123-", min_size=1, max_size=5), min_size=1, max_size=60, unique=True)
SHARES = st.lists(st.integers(1, 20), min_size=1, max_size=6).map(lambda parts: [p / sum(parts) for p in parts])


@given(NAMES, SHARES, st.text(max_size=4))
def test_every_device_is_in_exactly_one_wave_and_no_wave_is_empty(
    names: list[str], shares: list[float], seed: str
) -> None:
    waves = plan_waves(names, shares, seed)
    assert sorted(name for wave in waves for name in wave) == sorted(names)
    assert all(waves)
    assert len(waves) <= len(shares)


@given(NAMES, SHARES, st.data())
def test_waves_do_not_depend_on_the_order_of_the_devices(
    names: list[str], shares: list[float], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(names))
    assert plan_waves(shuffled, shares, "seed") == plan_waves(names, shares, "seed")


@given(st.integers(1, 300), SHARES)
def test_waves_have_about_the_shares_asked_for(count: int, shares: list[float]) -> None:
    waves = plan_waves([f"d{i}" for i in range(count)], shares, "seed")
    reached = 0
    for index, wave in enumerate(waves[:-1]):
        reached += len(wave)
        assert any(abs(reached - sum(shares[: j + 1]) * count) <= 1 for j in range(index, len(shares)))


def test_another_seed_puts_another_device_first() -> None:
    names = [f"d{i}" for i in range(20)]
    assert len({plan_waves(names, [0.05, 0.95], f"digits-{i}")[0][0] for i in range(10)}) > 3


def rollout(*waves: list[str], ratio: float = 0.0, soak_seconds: float = 60) -> Rollout:
    return Rollout(
        id="r",
        project="p",
        model_version="v",
        spec=RolloutSpec(waves=[1.0], soak_seconds=soak_seconds, max_failure_ratio=ratio),
        waves=[Wave(index=index, device_count=len(names)) for index, names in enumerate(waves)],
        devices=[
            RolloutDevice(device=name, wave=index, bundle=BUNDLE) for index, names in enumerate(waves) for name in names
        ],
    )


def look(subject: Rollout, reports: dict[str, Report], now: datetime) -> object:
    subject.devices, subject.waves = observed(subject, reports, now)
    return next_action(subject, reports, now)


def idle(name: str, **values: object) -> Report:
    return Report(device=name, online=True, **values)  # type: ignore[arg-type]


def done(name: str, generation: int = 1) -> Report:
    return idle(name, assigned_generation=generation, reported_generation=generation, active_bundle=BUNDLE)


def assigned(subject: Rollout, *names: str) -> None:
    subject.devices = [d.model_copy(update={"generation": 1}) if d.device in names else d for d in subject.devices]


def test_only_the_first_wave_is_assigned_at_first() -> None:
    assert look(rollout(["a"], ["b", "c"]), {n: idle(n) for n in "abc"}, NOW) == Assign(0, ("a",))


def test_a_rollout_without_waves_has_succeeded() -> None:
    assert look(rollout(), {}, NOW) == Succeed()


def test_the_soak_counts_from_the_last_success() -> None:
    subject = rollout(["a", "b"])
    assigned(subject, "a", "b")
    busy = idle("b", assigned_generation=1)
    assert isinstance(look(subject, {"a": done("a"), "b": busy}, NOW), Wait)
    reports = {"a": done("a"), "b": done("b")}
    action = look(subject, reports, NOW + timedelta(seconds=50))
    assert isinstance(action, Wait)
    assert action.until == NOW + timedelta(seconds=110)
    assert isinstance(look(subject, reports, NOW + timedelta(seconds=109)), Wait)
    assert look(subject, reports, NOW + timedelta(seconds=110)) == EndWave(0)


def test_a_failure_names_the_device_the_step_and_what_it_said() -> None:
    subject = rollout(["a", "b"])
    assigned(subject, "a", "b")
    failed = idle("a", assigned_generation=1, reported_generation=1, step=Step.VERIFY, message="digest differs")
    action = look(subject, {"a": failed, "b": idle("b", assigned_generation=1)}, NOW)
    assert isinstance(action, Pause)
    assert "1 of 2 devices failed (a: verify: digest differs)" in action.reason


def test_what_many_devices_said_is_told_once_and_what_most_said_first() -> None:
    subject = rollout([*"abcdef"])
    assigned(subject, *"abcdef")
    said = dict(zip("abcdef", ["full", "slow", "slow", "slow", "slow", "full"], strict=True))
    failed = {n: idle(n, assigned_generation=1, reported_generation=1, step=Step.PROBE, message=said[n]) for n in said}
    action = look(subject, failed, NOW)
    assert isinstance(action, Pause)
    why = "wave 1: 6 of 6 devices failed (b, c, d and 1 more: probe: slow; a, f: probe: full)"
    assert action.reason == f"{why}; resume to try them again, or abort"


def test_failures_up_to_the_ratio_are_borne() -> None:
    failed = idle("a", assigned_generation=1, reported_generation=1, message="no")
    for ratio, expected in ((0.5, EndWave), (0.49, Pause)):
        subject = rollout(["a", "b"], ratio=ratio, soak_seconds=0)
        assigned(subject, "a", "b")
        assert isinstance(look(subject, {"a": failed, "b": done("b")}, NOW), expected)


def test_an_agent_that_is_just_starting_has_not_failed() -> None:
    subject = rollout(["a"], soak_seconds=0)
    assigned(subject, "a")
    subject.devices, subject.waves = observed(subject, {"a": done("a")}, NOW)
    restarting = idle("a", assigned_generation=1, reported_generation=1)
    assert isinstance(look(subject, {"a": restarting}, NOW), Wait)
    assert look(subject, {"a": done("a")}, NOW) == EndWave(0)


def test_a_device_that_succeeds_after_all_counts_as_succeeded() -> None:
    subject = rollout(["a"], soak_seconds=0)
    assigned(subject, "a")
    failed = idle("a", assigned_generation=1, reported_generation=1, message="no")
    assert isinstance(look(subject, {"a": failed}, NOW), Pause)
    assert look(subject, {"a": done("a")}, NOW) == EndWave(0)


def test_a_deleted_device_belongs_to_no_wave() -> None:
    subject = rollout(["a"], ["b"], soak_seconds=0)
    assert look(subject, {"b": idle("b")}, NOW) == EndWave(0)
    assert subject.devices[0].wave == LEFT_OUT


@settings(max_examples=60)
@given(NAMES, SHARES, st.sampled_from([0.0, 0.3, 1.0]), st.data())
def test_a_rollout_ends_and_never_reaches_a_wave_before_the_one_ahead_has_soaked(
    names: list[str], shares: list[float], ratio: float, data: st.DataObject
) -> None:
    """Play a whole rollout with devices that succeed or fail as luck has it."""
    subject = rollout(*plan_waves(names, shares, "s"), ratio=ratio, soak_seconds=10)
    unlucky = set(data.draw(st.lists(st.sampled_from(names), max_size=3)))
    now, reports = NOW, {name: idle(name) for name in names}
    for _ in range(10 * len(subject.waves) + 10):
        action = look(subject, reports, now)
        if isinstance(action, Assign):
            assert all(wave.soaked_at for wave in subject.waves[: action.wave])
            assert {d.device for d in subject.devices if d.generation} <= {
                d.device for d in subject.devices if d.wave < action.wave
            }
            assigned(subject, *action.devices)
            for name in action.devices:
                failed = idle(name, assigned_generation=1, reported_generation=1, message="no")
                reports[name] = failed if name in unlucky else done(name)
        elif isinstance(action, EndWave):
            subject.waves = [
                w.model_copy(update={"soaked_at": now}) if w.index == action.wave else w for w in subject.waves
            ]
        elif isinstance(action, Wait):
            assert action.until is not None
            assert action.until > now
            now = action.until
        else:
            break
    failed_ratio = max((w.failed_count / w.device_count for w in subject.waves), default=0)
    assert isinstance(action, Pause if failed_ratio > ratio else Succeed)
    if isinstance(action, Succeed):
        states = {d.device: d.state for d in subject.devices}
        assert all(state is RolloutDeviceState.SUCCEEDED for name, state in states.items() if name not in unlucky)
