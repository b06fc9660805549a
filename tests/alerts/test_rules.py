"""Findings, standing, silences and retries, as values."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from milonga_hub.alerts.builtin import BUILT_IN
from milonga_hub.alerts.models import RULE_FILE, Alert, AlertRuleSpec, AlertSignal, Silence
from milonga_hub.alerts.rules import channels_of, check, silence_of, to_tell
from milonga_hub.alerts.rules_findings import DeviceFacts, DriftFacts, Facts, RolloutFacts, RunFacts, findings
from milonga_hub.errors import InvalidInput
from milonga_hub.outbox import next_attempt

from tests.telemetry.windows import START


def device(name: str = "pi-1", **values: Any) -> DeviceFacts:
    defaults: dict[str, Any] = {
        "attributes": {"type": "pi5", "site": "busan"},
        "online": True,
        "seen_at": START,
        "project": "digits",
    }
    return DeviceFacts(name=name, **{**defaults, **values})


def subjects(watch: AlertSignal, facts: Facts, **spec: Any) -> list[str]:
    return [one.subject for one in findings(AlertRuleSpec(watch=watch, **spec), facts)]


ALL_WRONG = Facts(
    devices=[
        device(
            online=False,
            request_count=100,
            error_count=50,
            median_ms=9.0,
            expected_ms=3.0,
            temperature_celsius=99.0,
            throttled_share=0.9,
            dropped_count=4,
            window_count=3000,
            clock_ahead_seconds=-3600.0,
            refused_count=7,
            refused_reason="it sends more telemetry than a device can make",
        )
    ],
    drift=[DriftFacts("pi-1", "digits", "brightness", 0.8, START)],
    failed_runs=[RunFacts("projects/digits/runs/3", "digits", "disk full", START)],
    rollouts=[RolloutFacts("digits-2", "digits", "models/digits/versions/2", True, "1 of 2 failed", {"pi-1": "boom"})],
)


def test_the_rule_to_copy_names_every_signal_that_there_is() -> None:
    text = (Path(__file__).parent.parent.parent / RULE_FILE.examples / "hot-devices.yaml").read_text(encoding="utf-8")
    assert {*AlertSignal} <= {*re.findall(r"[A-Z_]+", text)}


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_rule_is_sound_finds_its_trouble_and_says_what_to_do(name: str) -> None:
    check(name, BUILT_IN[name])
    (found,) = findings(BUILT_IN[name], ALL_WRONG)
    assert found.message and found.next_step
    assert found.project == "digits"
    assert findings(BUILT_IN[name], Facts(devices=[device()])) == []


def test_every_signal_has_a_built_in_rule_but_power_which_needs_a_threshold() -> None:
    assert {spec.watch for spec in BUILT_IN.values()} == {*AlertSignal} - {AlertSignal.POWER}
    with pytest.raises(InvalidInput, match="in watts"):
        check("x", AlertRuleSpec(watch=AlertSignal.POWER))
    check("x", AlertRuleSpec(watch=AlertSignal.POWER, threshold=10.0))


def test_machines_that_do_not_tell_are_neither_throttled_nor_hungry() -> None:
    machines = [device("a", throttled_share=0.5, power_watts=15.0), device("b", throttled_share=0.6), device("c")]
    facts = Facts(devices=machines)
    assert subjects(AlertSignal.THROTTLED, facts) == ["devices/b"]
    assert subjects(AlertSignal.POWER, facts, threshold=14.0) == ["devices/a"]
    assert subjects(AlertSignal.POWER, facts, threshold=15.0) == []


def test_a_flood_is_told_and_an_honest_device_is_not() -> None:
    facts = Facts(devices=[device("a", window_count=3000), device("b", window_count=10)])
    (found,) = findings(BUILT_IN["telemetry-flood"], facts)
    assert found.message == "a sends 10 windows of telemetry a second (allowed 1)"
    assert "milonga devices restart a" in found.next_step


def test_a_device_that_sends_as_often_as_it_was_told_is_no_flood() -> None:
    twice_a_second = [device("a", window_count=601), device("b", window_count=1201)]
    (found,) = findings(BUILT_IN["telemetry-flood"], Facts(devices=twice_a_second, window_seconds=0.5))
    assert found.message == "b sends 4 windows of telemetry a second (allowed 4)"
    assert subjects(AlertSignal.TELEMETRY_FLOOD, Facts(devices=twice_a_second, window_seconds=0.5), threshold=9.0) == []


def test_a_clock_is_told_that_is_ahead_or_behind_and_none_that_is_right_or_not_known() -> None:
    clocks = {"a": 7200.0, "b": -1.8e9, "c": 300.0, "d": None}
    facts = Facts(devices=[device(name, clock_ahead_seconds=ahead) for name, ahead in clocks.items()])
    found = findings(BUILT_IN["device-clock"], facts)
    assert [each.message for each in found] == [
        "the clock of a is 2 h ahead of the hub's (allowed 5 min)",
        "the clock of b is 20833 d behind the hub's (allowed 5 min)",
    ]


def test_a_selector_and_a_project_narrow_a_rule_and_off_is_off() -> None:
    watch = AlertSignal.DEVICE_OFFLINE
    facts = Facts(devices=[device("a", online=False), device("b", online=False, attributes={"site": "seoul"})])
    assert subjects(watch, facts, selector="site=busan") == ["devices/a"]
    assert subjects(watch, facts, project="faces") == []
    assert subjects(watch, facts, enabled=False) == []


def test_a_few_requests_say_nothing_of_errors_and_latency() -> None:
    few = Facts(devices=[device(request_count=19, error_count=19, median_ms=90.0, expected_ms=1.0)])
    assert subjects(AlertSignal.ERROR_RATE, few) == subjects(AlertSignal.LATENCY, few) == []


def test_at_the_threshold_all_is_well_and_above_it_not() -> None:
    for errors, wrong in ((5, []), (6, ["devices/pi-1"])):
        facts = Facts(devices=[device(request_count=100, error_count=errors)])
        assert subjects(AlertSignal.ERROR_RATE, facts) == wrong
    hot = Facts(devices=[device(temperature_celsius=75.0)])
    assert subjects(AlertSignal.TEMPERATURE, hot, threshold=70.0) == ["devices/pi-1"]


def test_a_model_that_was_never_measured_has_no_latency_to_compare_with() -> None:
    facts = Facts(devices=[device(request_count=100, median_ms=90.0, expected_ms=None)])
    assert subjects(AlertSignal.LATENCY, facts) == []


def test_what_to_do_about_a_model_from_elsewhere_is_to_send_it_anew() -> None:
    facts = replace(ALL_WRONG, devices=[replace(ALL_WRONG.devices[0], online=True)])
    for watch in (AlertSignal.DRIFT, AlertSignal.LATENCY):
        (here,) = findings(AlertRuleSpec(watch=watch), facts)
        (elsewhere,) = findings(AlertRuleSpec(watch=watch), replace(facts, untrained={"digits"}))
        assert here.next_step.endswith("milonga runs start digits")
        assert elsewhere.next_step.endswith("milonga models import digits FILE")
        assert "runs start" not in elsewhere.next_step


def test_a_rollout_that_was_taken_back_by_itself_is_told_until_the_next_one() -> None:
    took = ("digits-2", "models/digits/versions/2", "wave 1: 1 of 1 devices failed (pi-1: boom)")
    back = RolloutFacts("digits-3", "digits", "models/digits/versions/1", False, "", took_back=took)
    (found,) = findings(AlertRuleSpec(watch=AlertSignal.ROLLOUT_PAUSED), Facts(rollouts=[back]))
    assert found.subject == "rollouts/digits-2"
    assert found.message.endswith("go back to models/digits/versions/1: wave 1: 1 of 1 devices failed (pi-1: boom)")
    by_hand = replace(back, took_back=None)
    assert subjects(AlertSignal.ROLLOUT_PAUSED, Facts(rollouts=[by_hand])) == []


def test_a_rollout_that_a_person_paused_is_nothing_wrong_and_one_that_paused_itself_is() -> None:
    watch = AlertSignal.ROLLOUT_PAUSED
    itself = RolloutFacts("digits-2", "digits", "models/digits/versions/2", True, "wave 1: 1 of 1 devices failed (no)")
    assert subjects(watch, Facts(rollouts=[itself])) == ["rollouts/digits-2"]
    assert subjects(watch, Facts(rollouts=[replace(itself, paused_by_hand=True)])) == []


def test_a_threshold_for_something_that_is_or_is_not_is_refused() -> None:
    with pytest.raises(InvalidInput, match="without a threshold"):
        check("x", AlertRuleSpec(watch=AlertSignal.RUN_FAILED, threshold=1.0))
    with pytest.raises(InvalidInput, match="selector"):
        check("x", AlertRuleSpec(watch=AlertSignal.DRIFT, selector="a=b=c=("))


def alert(**values: Any) -> Alert:
    defaults: dict[str, Any] = {
        "id": "1",
        "rule": "drift",
        "signal": AlertSignal.DRIFT,
        "subject": "devices/pi-1",
        "since": START,
        "opened_at": START,
    }
    return Alert(**{**defaults, **values})


def test_the_longest_silence_that_covers_an_alert_holds() -> None:
    hour = timedelta(hours=1)
    silences = [
        Silence(id="over", until=START),
        Silence(id="other", rule="latency", until=START + 9 * hour),
        Silence(id="rule", rule="drift", until=START + hour),
        Silence(id="subject", subject="devices/pi-1", until=START + 2 * hour),
    ]
    found = silence_of(alert(), silences, START)
    assert found is not None and found.id == "subject"
    assert silence_of(alert(), silences[:2], START) is None


def test_an_alert_is_told_once_and_not_while_it_is_silenced_or_looked_after() -> None:
    assert to_tell(alert())
    for values in ({"told_channels": ["mail"]}, {"acknowledged_at": START}, {"silenced_until": START}):
        assert not to_tell(alert(**values))
    assert channels_of([], ["b", "a"]) == ["a", "b"]
    assert channels_of(["a", "gone"], ["b", "a"]) == ["a"]


@given(st.floats(min_value=0, max_value=86_400))
def test_retries_wait_longer_and_longer_and_end_when_it_was_said(give_up_after_seconds: float) -> None:
    now = START
    waits: list[float] = []
    while (then := next_attempt(len(waits) + 1, START, give_up_after_seconds, now)) is not None:
        waits.append((then - now).total_seconds())
        now = then
    assert (now - START).total_seconds() <= give_up_after_seconds
    assert waits == sorted(waits) and all(5 <= wait <= 900 for wait in waits)
    # It is not given up early: the next one would have come too late.
    assert (now - START).total_seconds() + 900 >= give_up_after_seconds or len(waits) < 9
