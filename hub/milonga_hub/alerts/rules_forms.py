"""What forms say about rules and channels, read into the same specs that files are read into. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from milonga_hub.alerts.models import AlertChannelSpec, AlertRuleSpec
from milonga_hub.documents import Spec

S = TypeVar("S", bound=Spec)

WEBHOOK, EMAIL = "webhook", "email"
# Of answers that no field is to blame for.
WHOLE = "all"
_RULE_NUMBERS = ("threshold", "for_seconds", "over_seconds")
# "spec.selector: ...", "spec.email.password must be given ...": what a service says of a field begins with its place.
_PLACE = re.compile(r"spec\.(?:\w+\.)*(\w+)(:?) ")
_NAME = "is not a name"

Problems = dict[str, str]
# That an answer is none which its field takes; pages have the words for each field.
WRONG = "wrong"


def rule_of(given: Mapping[str, str], channels: Sequence[str]) -> tuple[AlertRuleSpec | None, Problems]:
    """Return the rule that the answers describe, or which of them are wrong. `channels` are those that were ticked."""
    said: dict[str, Any] = {
        "watch": given.get("watch", ""),
        "selector": given.get("selector", "").strip(),
        "project": given.get("project", "").strip(),
        "severity": given.get("severity", ""),
        "channels": [*channels],
        "enabled": given.get("enabled") == "true",
    }
    problems = _numbers(said, given, _RULE_NUMBERS, float)
    return _read(AlertRuleSpec, said, problems)


def rule_answers(spec: AlertRuleSpec) -> dict[str, str]:
    """Return the answers that describe the rule: `rule_of` reads them, and the rule's channels, back into it."""
    return {
        "watch": spec.watch.value,
        "threshold": "" if spec.threshold is None else _text(spec.threshold),
        "for_seconds": _text(spec.for_seconds),
        "over_seconds": _text(spec.over_seconds),
        "selector": spec.selector,
        "project": spec.project,
        "severity": spec.severity.value,
        "enabled": "true" if spec.enabled else "",
    }


def channel_of(kind: str, given: Mapping[str, str]) -> tuple[AlertChannelSpec | None, Problems]:
    """Return the channel of this kind that the answers describe, or which of them are wrong."""
    whole: dict[str, Any] = {}
    problems = _numbers(whole, given, ("give_up_after_seconds",), float)
    if kind == WEBHOOK:
        whole[WEBHOOK] = {"url": given.get("url", "").strip(), "secret": given.get("secret", "").strip()}
    else:
        mail: dict[str, Any] = {name: given.get(name, "").strip() for name in ("host", "username", "sender")}
        problems |= _numbers(mail, given, ("port",), int)
        problems |= {name: WRONG for name in ("host", "sender") if not mail[name]}
        # A password may begin with a space.
        mail |= {"password": given.get("password", ""), "to": re.split(r"[\s,;]+", given.get("to", "").strip())}
        whole[EMAIL] = mail | {"security": given.get("security", "")}
    return _read(AlertChannelSpec, whole, problems)


def channel_answers(spec: AlertChannelSpec) -> dict[str, str]:
    """Return the answers that describe the channel, without its secret."""
    answers = {"give_up_after_seconds": _text(spec.give_up_after_seconds)}
    if spec.webhook is not None:
        return answers | {"url": spec.webhook.url}
    assert spec.email is not None
    mail = spec.email
    return answers | {
        "host": mail.host,
        "port": str(mail.port),
        "security": mail.security.value,
        "username": mail.username,
        "sender": mail.sender,
        "to": "\n".join(mail.to),
    }


def blamed(message: str, fields: Sequence[str]) -> Problems:
    """Return what a service said was wrong with a definition, by the field of the form that it is about."""
    found = _PLACE.match(message)
    if found is None or found[1] not in fields:
        return {"name" if _NAME in message else WHOLE: message}
    return {found[1]: message[found.end() :] if found[2] else WRONG}


def _numbers(into: dict[str, Any], given: Mapping[str, str], names: Sequence[str], kind: type[float]) -> Problems:
    """Put in the numbers that were written, and leave the others at what the spec has for them."""
    problems = {}
    for name in names:
        text = given.get(name, "").strip()
        try:
            into |= {name: kind(text)} if text else {}
        except ValueError:
            problems[name] = WRONG
    return problems


def _read(spec: type[S], said: Mapping[str, Any], problems: Problems) -> tuple[S | None, Problems]:
    try:
        read = spec.model_validate(said)
    except ValidationError as error:
        for detail in error.errors():
            field = next((part for part in reversed(detail["loc"]) if isinstance(part, str)), WHOLE)
            cause = detail.get("ctx", {}).get("error")
            # What a check of the whole says stands as it is; it has the address of a webhook or of people in it.
            place = {WEBHOOK: "url", EMAIL: "to"}.get(field, field)
            problems.setdefault(place, WRONG if cause is None else str(cause))
        return None, problems
    return (None if problems else read), problems


def _text(number: float) -> str:
    """Return the number as people write it; it reads as the same number again."""
    return repr(number).removesuffix(".0")
