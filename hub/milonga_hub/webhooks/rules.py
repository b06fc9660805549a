"""Which webhooks hear of what, and by what name. Pure."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta

from milonga_hub.errors import InvalidInput
from milonga_hub.webhooks.models import Happening, WebhookView

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# A row bears the time at which its transaction began to be made; it is seen when it is committed.
LATE = timedelta(seconds=60)
TEST = "test"


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is not a name; use 1 to 63 of a-z, 0-9 and '-'")


def looked_from(created_at: datetime, told_until: datetime) -> datetime:
    """Return from when on what happened is looked for again: nothing from before the webhook was made."""
    return max(created_at, told_until - LATE)


def hears(webhook: WebhookView, happening: Happening) -> bool:
    """Return whether a webhook is to be told."""
    is_wanted = not webhook.events or happening.kind in webhook.events
    return is_wanted and (not webhook.project or webhook.project in happening.projects)


def event_id(happening: Happening) -> str:
    """Return the id of the event: the same whoever is told, and however often it is looked at."""
    return f"{happening.subject}:{happening.kind}:{happening.at:%Y%m%dT%H%M%S.%fZ}"


def delivery_id(webhook: WebhookView, happening: Happening) -> str:
    """Return the id of the message about it to a webhook, in the order of what happened.

    A webhook that is made anew under its name is another one.
    """
    text = f"{webhook.name}|{webhook.created_at.isoformat()}|{event_id(happening)}"
    return f"{happening.at:%Y%m%dT%H%M%S%f}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
