"""When a finding becomes an alert, and whom to tell of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from milonga_hub.alerts.models import Alert, AlertRuleSpec, AlertView, Silence
from milonga_hub.alerts.rules_findings import THRESHOLDS, threshold_of
from milonga_hub.devices.selectors import parse
from milonga_hub.errors import InvalidInput

OPENED, RESOLVED, TEST = "opened", "resolved", "test"
# What one message lists; the rest is counted. A webhook's receiver may refuse large bodies.
_LISTED_ALERTS = 50
# How alerts name what they are about.
_SUBJECTS = ("devices/", "projects/", "rollouts/")
# Before each earlier acknowledgement in the note of one that took its place.
_EARLIER = "\n- "
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def check(name: str, spec: AlertRuleSpec) -> None:
    """Raise InvalidInput for what no field alone can tell."""
    check_name(name)
    try:
        parse(spec.selector)
    except InvalidInput as error:
        raise InvalidInput(f"spec.selector: {error}") from error
    if spec.watch in THRESHOLDS and threshold_of(spec) is None:
        raise InvalidInput(f"spec.threshold: {spec.watch} needs one, in watts: what is too much depends on the board")
    if spec.threshold is not None and spec.watch not in THRESHOLDS:
        signals = ", ".join(THRESHOLDS)
        raise InvalidInput(f"spec.threshold: {spec.watch} is or is not, without a threshold; those with one: {signals}")


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is not a name; use 1 to 63 of a-z, 0-9 and '-'")


def check_subject(subject: str) -> None:
    """Raise InvalidInput for what is no alert's subject, which would match none; "" stands for all."""
    if subject and not subject.startswith(_SUBJECTS):
        raise InvalidInput(
            f"{subject!r} is no subject of alerts; write it as devices/pi-3, projects/parts/runs/7 or rollouts/parts-2"
        )


def stood_long_enough(spec: AlertRuleSpec, since: datetime, now: datetime) -> bool:
    return now - since >= timedelta(seconds=spec.for_seconds)


def silence_of(alert: Alert, silences: Iterable[Silence], now: datetime) -> Silence | None:
    """Return the silence that covers the alert for longest, None for none."""
    covering = [
        one
        for one in silences
        if one.until > now and one.rule in ("", alert.rule) and one.subject in ("", alert.subject)
    ]
    return max(covering, key=lambda one: one.until, default=None)


def to_tell(alert: Alert) -> bool:
    """Whether the alert's beginning is still to be told: it is not silenced, acknowledged or told already."""
    return alert.told_channels is None and alert.acknowledged_at is None and alert.silenced_until is None


def is_said(alert: Alert, by: str, note: str) -> bool:
    """Whether an acknowledgement says no more than the one that stands: a repeated request, or a second click."""
    return alert.acknowledged_by == by and note in ("", alert.note.partition(_EARLIER)[0])


def note_with(alert: Alert, note: str) -> str:
    """Return the newest note, and below it who acknowledged the alert before, when, and their notes."""
    if alert.acknowledged_at is None:
        return note
    own, _, earlier = alert.note.partition(_EARLIER)
    before = f"{alert.acknowledged_by}, {alert.acknowledged_at:%Y-%m-%d %H:%M} UTC{own and f': {own}'}"
    return _EARLIER.join((note, before, *filter(None, (earlier,))))


def channels_of(wanted: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the channels that a rule's messages go to; a rule that names none takes all."""
    return sorted(name for name in known if not wanted or name in wanted)


def told(event: str, alerts: Sequence[Alert]) -> dict[str, Any]:
    """Return the data of an event about alerts: a title for people, and the alerts as the API has them."""
    listed = [AlertView(**{name: getattr(one, name) for name in AlertView.model_fields}) for one in alerts]
    return {
        "event": event,
        "title": _title(event, alerts),
        "alert_count": len(alerts),
        "alerts": [one.model_dump(mode="json") for one in listed[:_LISTED_ALERTS]],
    }


def _title(event: str, alerts: Sequence[Alert]) -> str:
    if event == TEST:
        return "Milonga: a test message; alerts will reach you this way"
    done = "resolved" if event == RESOLVED else alerts[0].severity.lower()
    first = alerts[0].message
    return f"Milonga {done}: {first}" if len(alerts) == 1 else f"Milonga {done}: {first}, and {len(alerts) - 1} more"
