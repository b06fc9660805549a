"""The rules that a hub comes with: what nearly everybody wants to be told. A rule applied under the same name replaces one."""

from __future__ import annotations

from collections.abc import Mapping

from milonga_hub.alerts.models import AlertRuleSpec, AlertSeverity, AlertSignal

BUILT_IN: Mapping[str, AlertRuleSpec] = {
    # Ten minutes: longer than a restart, an update of the system or a change of address takes.
    "device-offline": AlertRuleSpec(watch=AlertSignal.DEVICE_OFFLINE, for_seconds=600.0),
    # Two minutes: a board without a battery starts with a wrong clock, and sets it as soon as it has a network.
    "device-clock": AlertRuleSpec(watch=AlertSignal.DEVICE_CLOCK, for_seconds=120.0),
    "drift": AlertRuleSpec(watch=AlertSignal.DRIFT),
    "run-failed": AlertRuleSpec(watch=AlertSignal.RUN_FAILED, severity=AlertSeverity.CRITICAL),
    "rollout-paused": AlertRuleSpec(watch=AlertSignal.ROLLOUT_PAUSED, severity=AlertSeverity.CRITICAL),
    "rolled-back": AlertRuleSpec(watch=AlertSignal.ROLLED_BACK),
    "error-rate": AlertRuleSpec(watch=AlertSignal.ERROR_RATE, severity=AlertSeverity.CRITICAL),
    # A median above twice the measured one, for a quarter of an hour: a burst of other work on the device is over by then.
    "latency": AlertRuleSpec(watch=AlertSignal.LATENCY, for_seconds=900.0),
    "temperature": AlertRuleSpec(watch=AlertSignal.TEMPERATURE),
    # In most windows, for a quarter of an hour: CPUs that boost are held back for moments all the time.
    "throttled": AlertRuleSpec(watch=AlertSignal.THROTTLED, for_seconds=900.0),
    "telemetry-refused": AlertRuleSpec(watch=AlertSignal.TELEMETRY_REFUSED),
    "telemetry-flood": AlertRuleSpec(watch=AlertSignal.TELEMETRY_FLOOD),
    "telemetry-dropped": AlertRuleSpec(watch=AlertSignal.TELEMETRY_DROPPED, severity=AlertSeverity.INFO),
}
