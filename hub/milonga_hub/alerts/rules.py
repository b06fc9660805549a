"""When a finding becomes an alert, whom to tell of it, and when to try again. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from milonga_hub.alerts.models import Alert, AlertRuleSpec, Silence
from milonga_hub.alerts.rules_findings import THRESHOLDS
from milonga_hub.devices.selectors import parse
from milonga_hub.errors import InvalidInput

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# The first retry comes after 5 s, later ones after twice the time before, never more than a quarter of an hour.
_FIRST_RETRY_SECONDS = 5.0
_LAST_RETRY_SECONDS = 900.0


def check(name: str, spec: AlertRuleSpec) -> None:
    """Raise InvalidInput for what no field alone can tell."""
    check_name(name)
    try:
        parse(spec.selector)
    except InvalidInput as error:
        raise InvalidInput(f"spec.selector: {error}") from error
    if spec.threshold is not None and spec.watch not in THRESHOLDS:
        signals = ", ".join(THRESHOLDS)
        raise InvalidInput(f"spec.threshold: {spec.watch} is or is not, without a threshold; those with one: {signals}")


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is not a name; use 1 to 63 of a-z, 0-9 and '-'")


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


def channels_of(wanted: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the channels that a rule's messages go to; a rule that names none takes all."""
    return sorted(name for name in known if not wanted or name in wanted)


def next_attempt(attempts: int, created_at: datetime, give_up_after_seconds: float, now: datetime) -> datetime | None:
    """Return when to try again after so many attempts, None when it is time to give up."""
    wait_seconds = min(_FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 20), _LAST_RETRY_SECONDS)
    then = now + timedelta(seconds=wait_seconds)
    return then if then <= created_at + timedelta(seconds=give_up_after_seconds) else None
