"""How far devices of a rollout are, step by step, and when waves were under way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from milonga_hub.devices.models import ShadowSpec
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.models import RolloutDevice, RolloutDeviceState, RolloutView, Step, Wave
from milonga_hub.rollouts.rules_progress import StepState, began, columns, spans, step_states

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _device(state: RolloutDeviceState, step: Step | None = None, wave: int = 0) -> RolloutDevice:
    return RolloutDevice(device="pi", wave=wave, state=state, step=step, updated_at=NOW)


def _rollout(waves: list[Wave], devices: list[RolloutDevice], spec: RolloutSpec | None = None) -> RolloutView:
    return RolloutView(
        id="digits-1",
        project="digits",
        model_version="models/digits/versions/1",
        waves=waves,
        devices=devices,
        spec=spec or RolloutSpec(),
    )


def test_steps_before_the_one_that_a_device_told_of_are_behind_it() -> None:
    steps = (Step.DOWNLOAD, Step.VERIFY, Step.INSTALL, Step.COMMIT)
    done, now, failed, pending = StepState.SUCCEEDED, StepState.RUNNING, StepState.FAILED, StepState.PENDING
    for device, wanted in (
        (_device(RolloutDeviceState.ASSIGNED, Step.VERIFY), [done, now, pending, pending]),
        (_device(RolloutDeviceState.FAILED, Step.INSTALL), [done, done, failed, pending]),
        (_device(RolloutDeviceState.SUCCEEDED, Step.COMMIT), [done] * 4),
        (_device(RolloutDeviceState.WAITING), [pending] * 4),
        (_device(RolloutDeviceState.FAILED, Step.ROLL_BACK), [pending] * 4),
    ):
        assert step_states(device, steps) == wanted, device


def test_steps_that_no_device_of_a_rollout_has_are_no_columns() -> None:
    plain = _rollout([], [])
    assert Step.BUILD not in columns(plain, []) and Step.SHADOW not in columns(plain, [])
    assert Step.BUILD in columns(plain, [_device(RolloutDeviceState.ASSIGNED, Step.BUILD)])
    assert Step.SHADOW in columns(_rollout([], [], RolloutSpec(shadow=ShadowSpec())), [])


def test_a_wave_is_under_way_until_it_has_soaked_or_the_rollout_ends() -> None:
    waves = [
        Wave(index=0, device_count=1, succeeded_count=1, started_at=NOW, soaked_at=NOW + timedelta(seconds=60)),
        Wave(index=1, device_count=1, started_at=NOW + timedelta(seconds=61)),
        Wave(index=2, device_count=1),
    ]
    rollout = _rollout(waves, [_device(RolloutDeviceState.SUCCEEDED), _device(RolloutDeviceState.ASSIGNED, wave=1)])
    assert [span.ended for span in spans(rollout)] == [NOW + timedelta(seconds=60), None, None]
    assert [span.arrivals for span in spans(rollout)] == [(NOW,), (), ()]
    assert began(rollout) == NOW and began(_rollout([Wave(index=0)], [])) is None
    rollout.ended_at = NOW + timedelta(seconds=90)
    assert [span.ended for span in spans(rollout)][1:] == [rollout.ended_at, None]
