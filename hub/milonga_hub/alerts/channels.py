"""Carry one message to the world: a signed webhook, or an e-mail. Raises ChannelFailed with what the other side said."""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Sequence
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

from milonga_hub.alerts.models import AlertChannelSpec, EmailSpec, MailSecurity
from milonga_hub.posting import TIMEOUT_SECONDS, ChannelFailed, one_line, post


def send(spec: AlertChannelSpec, delivery: str, body: str, now: datetime) -> str:
    """Send the event and return what the other side answered. `delivery` stays the same when it is sent again."""
    if spec.webhook is not None:
        return post(spec.webhook.url, spec.webhook.secret, delivery, body.encode(), now)
    assert spec.email is not None
    event = json.loads(body)
    # Messages that a hub of before events were CloudEvents left in the queue have no data apart.
    return _mail(spec.email, delivery, event.get("data", event), now)


def _mail(spec: EmailSpec, delivery: str, body: dict[str, Any], now: datetime) -> str:
    message = EmailMessage()
    message["Subject"] = one_line(body["title"])
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
        raise ChannelFailed(f"{spec.host}:{spec.port} did not take the mail: {one_line(str(error))}") from error
    if refused:
        raise ChannelFailed(f"{spec.host} refused {', '.join(refused)}")
    return f"taken by {spec.host} for {', '.join(spec.to)}"


def _session(spec: EmailSpec) -> smtplib.SMTP:
    trusted = ssl.create_default_context()
    if spec.security is MailSecurity.TLS:
        return smtplib.SMTP_SSL(spec.host, spec.port, timeout=TIMEOUT_SECONDS, context=trusted)
    server = smtplib.SMTP(spec.host, spec.port, timeout=TIMEOUT_SECONDS)
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
