"""What a terminal shows of a rollout: all of a few devices, what needs a look of many, and what it would do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from milonga.v1 import rollouts_pb2 as pb
from milonga_hub.cli.output import console
from milonga_hub.cli.rollouttables import render_briefly, render_rehearsed, render_rollout

WAITING, ASSIGNED = pb.ROLLOUT_DEVICE_STATE_WAITING, pb.ROLLOUT_DEVICE_STATE_ASSIGNED
SUCCEEDED, FAILED = pb.ROLLOUT_DEVICE_STATE_SUCCEEDED, pb.ROLLOUT_DEVICE_STATE_FAILED


def _rollout(*waves: Sequence[pb.RolloutDeviceState.ValueType]) -> pb.Rollout:
    rollout = pb.Rollout(id="parts.1", model_version="models/parts/versions/1", state=pb.ROLLOUT_STATE_RUNNING)
    for index, states in enumerate(waves):
        wave = rollout.waves.add(index=index, device_count=len(states))
        wave.succeeded_count, wave.failed_count = states.count(SUCCEEDED), states.count(FAILED)
        if set(states) != {WAITING}:
            wave.started_at.GetCurrentTime()
        for number, state in enumerate(states):
            message = "the disk is full" if state == FAILED else ""
            rollout.devices.add(device=f"w{index + 1}-{number:03}", wave=index, state=state, message=message)
    return rollout


def _shown(rollout: pb.Rollout, capsys: pytest.CaptureFixture[str]) -> list[str]:
    console().print(render_briefly(rollout))
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_few_devices_are_all_there(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _shown(_rollout([SUCCEEDED] * 5, [WAITING] * 15), capsys)
    assert len(lines) == 21 and "w2-014" in lines[-1]


def test_of_many_waves_are_counted_and_what_failed_or_goes_on_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    rollout = _rollout([SUCCEEDED] * 30, [SUCCEEDED] * 40 + [ASSIGNED] * 25 + [FAILED] * 2, [WAITING] * 203)
    lines = _shown(rollout, capsys)
    assert lines[1:4] == [
        "wave 1: 30 of 30 succeeded",
        "wave 2: 40 of 67 succeeded, 2 failed",
        "wave 3: 0 of 203 succeeded, not begun",
    ]
    named = lines[4:-1]
    assert len(named) == 20
    assert sum("the disk is full" in line for line in named) == 2 and sum("assigned" in line for line in named) == 18
    assert lines[-1] == "and 280 others; all of them: milonga rollouts show parts.1"
    console().print(render_rollout(rollout))
    assert len(capsys.readouterr().out.splitlines()) == 301


def _rehearsed(devices: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    rollout = pb.Rollout(id="parts.1", model_version="models/parts/versions/1")
    build = "models/parts/versions/1/builds/pi5:onnxruntime:fp32"
    for number in range(devices):
        rollout.devices.add(device=f"pi-{number:03}", wave=int(number > 3), build=build, message="window opens later")
    rollout.devices.add(device="keeps", wave=-1, message="keeps models/parts/versions/9")
    console().print(render_rehearsed(rollout))
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_what_a_rollout_would_do_names_a_few_devices_and_counts_many_that_are_alike(
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = _rehearsed(5, capsys)
    assert few[0] == "parts.1 models/parts/versions/1 not begun" and len(few) == 7
    assert few[5:] == [
        "wave 2 pi-004 pi5:onnxruntime:fp32, window opens later",
        "left out keeps keeps models/parts/versions/9",
    ]
    assert _rehearsed(300, capsys)[1:] == [
        "wave 1 4 devices pi5:onnxruntime:fp32, window opens later",
        "wave 2 296 devices pi5:onnxruntime:fp32, window opens later",
        "left out keeps keeps models/parts/versions/9",
        "each device by its name: --json",
    ]
