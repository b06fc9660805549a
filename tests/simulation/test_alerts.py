"""What a running hub tells people when simulated devices refuse a version or send what is no telemetry, and when that is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from milonga_agent.plan import Step
from milonga_hub.alerts.models import AlertChannelSpec, AlertState, WebhookSpec
from milonga_hub.app import Hub
from milonga_hub.db import utc_now
from milonga_hub.projects.models import RolloutSpec
from milonga_hub.rollouts.models import RolloutState

from tests.alerts.receivers import WebReceiver, web_receiver
from tests.simulation.hubs import PROJECT, give_project, release, running
from tests.simulation.test_fleet import Clock, all_online, devices, simulated, until

_FAIL_AT_FIRST = "    - {fault: failing, step: PROBE, for_seconds: 100, message: wrong answers}"


def _standing(hub: Hub) -> dict[tuple[str, str], str]:
    """Return what each open alert says to do next, by rule and subject."""
    return {(one.rule, one.subject): one.next_step for one in hub.alerts.list(AlertState.OPEN)[0]}


def _told(web: WebReceiver, event: str) -> dict[tuple[str, str], str]:
    """Return the messages that arrived of alerts that opened, or resolved."""
    bodies: list[dict[str, Any]] = [json.loads(body)["data"] for body in list(web.bodies)]
    return {
        (one["rule"], one["subject"]): one["message"]
        for body in bodies
        if body["event"] == event
        for one in body["alerts"]
    }


async def _comes(condition: Callable[[], bool]) -> None:
    """Wait for what no event announces."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def _listen(hub: Hub, web: WebReceiver) -> None:
    hub.alerts.definitions.apply_channel("hook", AlertChannelSpec(webhook=WebhookSpec(url=web.url, secret="of theirs")))


def test_a_version_that_devices_refuse_is_told_of_until_they_take_it(tmp_path: Path) -> None:
    async def story(web: WebReceiver) -> None:
        clock = Clock()
        async with running(tmp_path) as hub, simulated(hub, 2, _FAIL_AT_FIRST, clock) as fleet:
            give_project(hub, tmp_path / "project")
            _listen(hub, web)
            await until(hub, lambda: all_online(hub, 1))
            clock.now = 1.0
            await until(hub, lambda: all_online(hub, 2))
            types = sorted({device.device_type for device in devices(hub)})
            version = release(hub.models, hub.builds, tmp_path / "made", 1, types)
            spec = RolloutSpec(waves=[1.0], soak_seconds=0.0, max_failure_ratio=0.1)
            id = hub.rollouts.create(version, PROJECT, "", spec).id
            wrong = {("rollout-paused", f"rollouts/{id}")}
            wrong |= {("rolled-back", f"devices/{device.name}") for device in devices(hub)}
            await until(hub, lambda: {*_standing(hub)} == wrong)
            for (rule, _), next_step in _standing(hub).items():
                command = "resume" if rule == "rollout-paused" else "retry"
                assert f"milonga rollouts {command} {id}" in next_step
            await _comes(lambda: {*_told(web, "opened")} == wrong)
            for (rule, subject), message in _told(web, "opened").items():
                assert "wrong answers" in message, message
                assert rule == "rollout-paused" or message.startswith(
                    f"{subject.removeprefix('devices/')} did not take {version}"
                )

            clock.now = 200.0
            await _comes(lambda: not any(device.condition.why_failing(Step.PROBE) for device in fleet.devices))
            hub.rollouts.retry(id)
            await until(hub, lambda: hub.rollouts.get(id).state is RolloutState.SUCCEEDED)
            await until(hub, lambda: not _standing(hub))
            await _comes(lambda: {*_told(web, "resolved")} == wrong)

    with web_receiver() as web:
        asyncio.run(story(web))


def test_a_device_that_sends_what_is_no_telemetry_is_told_of_until_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(web: WebReceiver) -> None:
        async with running(tmp_path) as hub, simulated(hub, 1, "    []") as fleet:
            _listen(hub, web)
            await until(hub, lambda: all_online(hub, 1))
            (device,) = fleet.devices
            publisher, name = device._publisher, fleet.simulation.name(0)
            assert publisher is not None
            await _comes(lambda: publisher._online)
            publisher._client.publish(f"milonga/v1/{name}/telemetry", b"no window at all", qos=1)
            wrong = {("telemetry-refused", f"devices/{name}")}
            await _comes(lambda: hub.telemetry.refusals.of(name).count == 1)
            await asyncio.to_thread(hub.alerts.look)
            assert {*_standing(hub)} == wrong
            assert f"milonga devices show {name}" in "".join(_standing(hub).values())
            await _comes(lambda: {*_told(web, "opened")} == wrong)
            (message,) = _told(web, "opened").values()
            assert message.startswith(f"telemetry of {name} is refused: ") and len(message) > 40
            # Five minutes later: rules look that far back.
            monkeypatch.setattr(hub.alerts, "_clock", lambda: utc_now() + timedelta(seconds=301))
            await asyncio.to_thread(hub.alerts.look)
            assert not _standing(hub)
            await _comes(lambda: {*_told(web, "resolved")} == wrong)

    with web_receiver() as web:
        asyncio.run(story(web))
