"""Carry one message to the world: a signed webhook, or an e-mail. Raises ChannelFailed with what the other side said."""

from __future__ import annotations

import hashlib
import hmac
import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

from milonga_hub.alerts.models import AlertChannelSpec, EmailSpec, MailSecurity, WebhookSpec
from milonga_hub.errors import FailedPrecondition

SIGNATURE_HEADER = "Milonga-Signature"
# Long enough for a slow mail server, short enough that others do not wait for a dead one.
_TIMEOUT_SECONDS = 10.0
_SHOWN_BYTES = 200


class ChannelFailed(FailedPrecondition):
    """The message did not arrive; trying again may help."""

    reason = "CHANNEL_FAILED"


def signature(secret: str, body: bytes, at: datetime) -> str:
    """Return "t=UNIX_SECONDS,v1=HEX": HMAC-SHA256 of "UNIX_SECONDS.BODY"; the time lets receivers refuse replays."""
    seconds = str(int(at.timestamp()))
    digest = hmac.new(secret.encode(), seconds.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def send(spec: AlertChannelSpec, delivery: str, body: str, now: datetime) -> str:
    """Send the JSON body and return what the other side answered. `delivery` stays the same when it is sent again."""
    if spec.webhook is not None:
        return _post(spec.webhook, delivery, body.encode(), now)
    assert spec.email is not None
    return _mail(spec.email, delivery, json.loads(body), now)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A signed message goes to the address that was given, and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _post(spec: WebhookSpec, delivery: str, body: bytes, now: datetime) -> str:
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Milonga",
        "Milonga-Delivery": delivery,
        SIGNATURE_HEADER: signature(spec.secret, body, now),
    }
    # The scheme was checked when the channel was applied.
    request = urllib.request.Request(spec.url, data=body, headers=headers, method="POST")  # noqa: S310
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT_SECONDS) as answer:
            return f"HTTP {answer.status}"
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(_SHOWN_BYTES).decode("utf-8", "replace")
        raise ChannelFailed(f"{spec.url} answered HTTP {error.code} {_line(said)}".strip()) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ChannelFailed(f"{spec.url} cannot be reached: {reason}") from error
    except Exception as error:
        # http.client has errors of its own for answers that are no HTTP.
        raise ChannelFailed(f"{spec.url} does not speak HTTP: {type(error).__name__}") from error


def _mail(spec: EmailSpec, delivery: str, body: dict[str, Any], now: datetime) -> str:
    message = EmailMessage()
    message["Subject"] = _line(body["title"])
    message["From"], message["To"] = spec.sender, ", ".join(spec.to)
    message["Date"] = format_datetime(now)
    # The same when it is sent again, so that mail programs show it once.
    message["Message-ID"] = f"<{delivery}@milonga.{spec.sender.rpartition('@')[2]}>"
    message.set_content(_text(body))
    try:
        with _session(spec) as server:
            if spec.username:
                server.login(spec.username, spec.password)
            refused = server.send_message(message)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise ChannelFailed(f"{spec.host}:{spec.port} did not take the mail: {_line(str(error))}") from error
    if refused:
        raise ChannelFailed(f"{spec.host} refused {', '.join(refused)}")
    return f"taken by {spec.host} for {', '.join(spec.to)}"


def _session(spec: EmailSpec) -> smtplib.SMTP:
    trusted = ssl.create_default_context()
    if spec.security is MailSecurity.TLS:
        return smtplib.SMTP_SSL(spec.host, spec.port, timeout=_TIMEOUT_SECONDS, context=trusted)
    server = smtplib.SMTP(spec.host, spec.port, timeout=_TIMEOUT_SECONDS)
    if spec.security is MailSecurity.STARTTLS:
        try:
            server.starttls(context=trusted)
        except BaseException:
            server.close()
            raise
    return server


def _text(body: dict[str, Any]) -> str:
    alerts: Sequence[dict[str, Any]] = body["alerts"]
    parts = [body["title"]]
    for alert in alerts:
        lines = [f"{alert['severity']}: {alert['message']}", f"since {alert['since']}"]
        if alert["resolved_at"]:
            lines.append(f"over since {alert['resolved_at']}: {alert['resolution']}")
        else:
            lines.append(f"what to do: {alert['next_step']}")
            lines.append(f"to stop further messages: milonga alerts ack {alert['id']}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _line(text: str) -> str:
    """Return the text on one line: headers must not be broken, and errors should be short."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
