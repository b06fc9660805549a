"""Signed posts to the addresses of others: what alerts and webhooks send, the same way."""

from __future__ import annotations

import hashlib
import hmac
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from milonga_hub.errors import FailedPrecondition

SIGNATURE_HEADER = "Milonga-Signature"
# Long enough for a slow server, short enough that others do not wait for a dead one.
TIMEOUT_SECONDS = 10.0
_SHOWN_BYTES = 200


class ChannelFailed(FailedPrecondition):
    """The message did not arrive; trying again may help."""

    reason = "CHANNEL_FAILED"


def check_address(url: str) -> None:
    """Raise ValueError for what nothing can be posted to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the address of a webhook; write https://host/path")


def cloud_event(
    source: str, id: str, type: str, time: datetime, data: Mapping[str, Any], subject: str = "", project: str = ""
) -> str:
    """Return an event in the JSON format of CloudEvents 1.0; `project` is an extension of ours."""
    about = {"subject": subject} if subject else {}
    extensions = {"project": project} if project else {}
    return json.dumps(
        {
            "specversion": "1.0",
            "id": id,
            "source": source,
            "type": f"milonga.{type}",
            "time": time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            **about,
            **extensions,
            "datacontenttype": "application/json",
            "data": data,
        },
        ensure_ascii=False,
    )


def signature(secret: str, body: bytes, at: datetime) -> str:
    """Return "t=UNIX_SECONDS,v1=HEX": HMAC-SHA256 of "UNIX_SECONDS.BODY"; the time lets receivers refuse replays."""
    seconds = str(int(at.timestamp()))
    digest = hmac.new(secret.encode(), seconds.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A signed message goes to the address that was given, and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post(url: str, secret: str, delivery: str, body: bytes, now: datetime) -> str:
    """Post the event and return what the other side answered. `delivery` stays the same when it is sent again."""
    headers = {
        "Content-Type": "application/cloudevents+json; charset=utf-8",
        "User-Agent": "Milonga",
        "Milonga-Delivery": delivery,
        SIGNATURE_HEADER: signature(secret, body, now),
    }
    # The scheme was checked when the address was given.
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS) as answer:
            return f"HTTP {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            # A page for browsers says no more than its status.
            is_page = error.headers.get_content_type() == "text/html"
            said = error.reason if is_page else error.read(_SHOWN_BYTES).decode("utf-8", "replace")
        raise ChannelFailed(f"{url} answered HTTP {error.code} {one_line(said)}".strip()) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ChannelFailed(f"{url} cannot be reached: {reason}") from error
    except Exception as error:
        # http.client has errors of its own for answers that are no HTTP.
        raise ChannelFailed(f"{url} does not speak HTTP: {type(error).__name__}") from error


def one_line(text: str) -> str:
    """Return the text on one line: headers must not be broken, and errors should be short."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
