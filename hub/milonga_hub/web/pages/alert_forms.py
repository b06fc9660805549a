"""What the forms for rules of alerts and for channels share: answers, what is wrong with them, and the file that they become."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import yaml
from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from milonga_hub.alerts.rules_forms import WRONG, Problems, blamed
from milonga_hub.callers import leave_unrecorded, tell_problem, tell_resource
from milonga_hub.documents import Kind, Spec
from milonga_hub.errors import MilongaError
from milonga_hub.web.language import N_
from milonga_hub.web.language import gettext as _

S = TypeVar("S", bound=Spec)

# What is said of an answer that is none which its field takes.
_WORDS: Mapping[str, str] = {
    "watch": N_("Choose what it watches."),
    "severity": N_("Choose how bad it is."),
    "threshold": N_("Write a number, 0 or more."),
    "for_seconds": N_("Write the seconds as a number, 0 or more and at most 31 days."),
    "over_seconds": N_("Write the seconds as a number above 0, at most a day."),
    "url": N_("Write an address such as https://host/path."),
    "secret": N_("Write the secret again: it is never used for another address than the one that it was given for."),
    "host": N_("Write the name of the server that takes the mail."),
    "port": N_("Write a whole number from 1 to 65535."),
    "password": N_("Write the password of that user, again where the server has changed."),
    "sender": N_("Write the address that the mail comes from."),
    "to": N_("Write one address a line."),
    "security": N_("Choose how the connection is encrypted."),
    "give_up_after_seconds": N_("Write the seconds as a number, 0 or more and at most 31 days."),
}
_FIELDS = (*_WORDS, "selector", "project")


@dataclass
class Filled(Generic[S]):
    """A form as it was sent or is shown first: the definition that it describes so far, and what is wrong by field."""

    given: Mapping[str, str]
    # The name of what is changed; "" for what is new.
    changed: str = ""
    ticked: Sequence[str] = ()
    wrong: Problems = field(default_factory=dict)
    spec: S | None = None

    @property
    def name(self) -> str:
        return self.changed or self.given.get("name", "").strip()

    def text(self, kind: Kind[S], hidden: Mapping[str, Any]) -> str:
        """Return it as the file that `milonga apply` takes, as far as it is known; `hidden` is left out of it."""
        if self.spec is None:
            return ""
        said = self.spec.model_dump(mode="json", exclude_defaults=True, exclude=dict(hidden))
        document: str = yaml.safe_dump({"kind": kind.name, "name": self.name or "NAME", "spec": said}, sort_keys=False)
        return document

    def put(self, apply: Callable[[S], object], known: Sequence[str]) -> None:
        """Apply it where nothing is wrong yet, and note what is. `known` are the names that others have."""
        if not self.name:
            self.wrong["name"] = _("Give it a name.")
        elif not self.changed and self.name in known:
            self.wrong["name"] = _("There is one of this name already; change that one, or choose another name.")
        if self.spec is not None and not self.wrong:
            try:
                apply(self.spec)
            except MilongaError as error:
                self.wrong |= blamed(str(error), _FIELDS)
                tell_problem(f"{type(error).__name__}: {error}")
        self.wrong = {name: _(_WORDS[name]) if why == WRONG else why for name, why in self.wrong.items()}


async def answered(
    read: Filled[S],
    known: Sequence[str],
    apply: Callable[[S, bool], object],
    page: Callable[[int], Response],
    address: str,
    home: str,
) -> Response:
    """Apply what a form says, of something below `home`, and lead to `address`; or answer with its `page` where something is wrong, or to be looked at only.

    `apply` takes whether to look only. In threads, for the database may be busy.
    """
    is_look = bool(read.given.get("check"))
    leave_unrecorded(is_look)
    # The form's address is that of all of its kind.
    tell_resource(f"{home}/{read.name}")
    await asyncio.to_thread(read.put, lambda spec: apply(spec, is_look), known)
    if is_look or read.wrong:
        return await asyncio.to_thread(page, 200 if is_look else 400)
    return RedirectResponse(address, status_code=303)


async def given(request: Request) -> tuple[dict[str, str], list[str]]:
    """Return the answers of the form that was sent, and the channels that are ticked in it."""
    form = await request.form()
    answers = {key: value for key, value in form.items() if isinstance(value, str)}
    return answers, [each for each in form.getlist("channel") if isinstance(each, str)]
