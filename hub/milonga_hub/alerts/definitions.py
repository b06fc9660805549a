"""The rules and channels that a hub has: those that it comes with, and those that people applied."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from pydantic import BaseModel
from sqlmodel import col, select

from milonga_hub.alerts import rules
from milonga_hub.alerts.builtin import BUILT_IN
from milonga_hub.alerts.models import (
    AlertChannel,
    AlertChannelSpec,
    AlertRule,
    AlertRuleSpec,
    ChannelView,
    RuleView,
)
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.projects.rules import check_known, differences

M = TypeVar("M", bound=BaseModel)

_HIDDEN = "(set)"


class Definitions:
    """Applies documents and answers with what holds; equal specs change nothing."""

    def __init__(
        self, database: Database, projects: Callable[[], list[str]], clock: Callable[[], datetime] = utc_now
    ) -> None:
        """`projects` returns the names of those that rules may be narrowed to."""
        self._database = database
        self._projects = projects
        self._clock = clock

    # Rules

    def rules(self) -> list[RuleView]:
        """Return all rules by name."""
        with self._database.session() as session:
            applied = {row.name: row for row in session.exec(select(AlertRule))}
        built_in = [
            RuleView(name=name, spec=spec, built_in=True) for name, spec in BUILT_IN.items() if name not in applied
        ]
        own = [RuleView(name=row.name, spec=row.spec, updated_at=row.updated_at) for row in applied.values()]
        return sorted([*built_in, *own], key=lambda rule: rule.name)

    def apply_rule(self, name: str, spec: AlertRuleSpec, dry_run: bool = False) -> tuple[RuleView, list[str]]:
        """Create or change a rule; return it and what changed. With `dry_run` nothing is written.

        Raises NotFound where it is narrowed to a project that there is not, and would find nothing for ever.
        """
        rules.check(name, spec)
        known = next((rule for rule in self.rules() if rule.name == name), None)
        changed = _changes("rule", known.spec if known else None, spec)
        if not dry_run:
            # A look at files that make them, too, finds neither yet.
            self._need_channels(spec)
            if known is None or spec.project != known.spec.project:
                self._need_project(spec)
        if dry_run or (known is not None and not changed):
            return known or RuleView(name=name, spec=spec), changed
        with self._database.session() as session:
            row = session.merge(AlertRule(name=name, spec=spec, updated_at=self._clock()))
        return RuleView(name=row.name, spec=row.spec, updated_at=row.updated_at), changed

    def delete_rule(self, name: str) -> None:
        with self._database.session() as session:
            row = session.get(AlertRule, name)
            if row is not None:
                session.delete(row)
                return
        if name in BUILT_IN:
            raise FailedPrecondition(
                f"{name} comes with the hub; to switch it off apply a rule of this name with enabled: false"
            )
        raise NotFound(f"there is no alert rule {name!r}; see: milonga alerts rules")

    def _need_channels(self, spec: AlertRuleSpec) -> None:
        known = {channel.name for channel in self.channels()}
        missing = [name for name in spec.channels if name not in known]
        if missing:
            raise FailedPrecondition(
                f"there is no alert channel {missing[0]!r}; apply its file first (kind: AlertChannel), or name one of:"
                f" {', '.join(sorted(known)) or 'none yet'}"
            )

    def _need_project(self, spec: AlertRuleSpec) -> None:
        try:
            check_known(spec.project, self._projects())
        except NotFound as error:
            raise NotFound(f"spec.project: {error}") from error

    # Channels

    def channels(self) -> list[ChannelView]:
        """Return all channels by name, without secrets."""
        with self._database.session() as session:
            return [_shown(row) for row in session.exec(select(AlertChannel).order_by(col(AlertChannel.name)))]

    def channel(self, name: str) -> AlertChannel:
        """Return the channel with its secret; for sending alone."""
        with self._database.session() as session:
            row = session.get(AlertChannel, name)
        if row is None:
            raise NotFound(f"there is no alert channel {name!r}; see: milonga alerts channels")
        return row

    def apply_channel(self, name: str, spec: AlertChannelSpec, dry_run: bool = False) -> tuple[ChannelView, list[str]]:
        """Create or change a channel; a secret that is left out stays as it is. Returns it and what changed."""
        rules.check_name(name)
        with self._database.session() as session:
            known = session.get(AlertChannel, name)
            whole = _with_secret_of(known.spec, spec) if known else spec
            _need_secret(whole)
            changed = _changes("channel", known.spec if known else None, whole)
            if dry_run or (known is not None and not changed):
                return _shown(known or AlertChannel(name=name, spec=whole)), changed
            row = session.merge(AlertChannel(name=name, spec=whole, updated_at=self._clock()))
        return _shown(row), changed

    def delete_channel(self, name: str) -> None:
        users = [rule.name for rule in self.rules() if name in rule.spec.channels]
        if users:
            raise FailedPrecondition(f"the rule {users[0]!r} sends to {name}; change or delete that rule first")
        row = self.channel(name)
        with self._database.session() as session:
            session.delete(row)


def _shown(row: AlertChannel) -> ChannelView:
    spec = row.spec
    secret = spec.webhook.secret if spec.webhook else spec.email.password if spec.email else ""
    return ChannelView(name=row.name, spec=_masked(spec, ""), has_secret=bool(secret), updated_at=row.updated_at)


def _masked(spec: AlertChannelSpec, by: str) -> AlertChannelSpec:
    """Return the spec with its secret, where it has one, replaced."""
    webhook, email = spec.webhook, spec.email
    if webhook is not None:
        webhook = webhook.model_copy(update={"secret": by if webhook.secret else ""})
    if email is not None:
        email = email.model_copy(update={"password": by if email.password else ""})
    return spec.model_copy(update={"webhook": webhook, "email": email})


def _with_secret_of(known: AlertChannelSpec, spec: AlertChannelSpec) -> AlertChannelSpec:
    """Keep the known secret where the new spec has none, but never hand it to another place than it was given for."""
    webhook, email = spec.webhook, spec.email
    if webhook is not None and not webhook.secret and known.webhook is not None and known.webhook.url == webhook.url:
        webhook = webhook.model_copy(update={"secret": known.webhook.secret})
    if email is not None and not email.password and known.email is not None:
        same = (known.email.host, known.email.port, known.email.username) == (email.host, email.port, email.username)
        if same:
            email = email.model_copy(update={"password": known.email.password})
    return spec.model_copy(update={"webhook": webhook, "email": email})


def _need_secret(spec: AlertChannelSpec) -> None:
    if spec.webhook is not None and not spec.webhook.secret:
        raise InvalidInput(
            "spec.webhook.secret must be given (again where the url changes): it signs what is sent, so that the"
            " receiver knows it is from this hub"
        )
    if spec.email is not None and spec.email.username and not spec.email.password:
        raise InvalidInput("spec.email.password must be given with a username (again where the server changes)")


def _changes(kind: str, before: BaseModel | None, after: BaseModel) -> list[str]:
    if before is None:
        return [f"new {kind}"]
    if before == after:
        return []
    if isinstance(before, AlertChannelSpec) and isinstance(after, AlertChannelSpec):
        shown = differences("spec", _json(_masked(before, _HIDDEN)), _json(_masked(after, _HIDDEN)))
        return shown or ["the secret changed"]
    return differences("spec", _json(before), _json(after))


def _json(model: BaseModel) -> dict[str, object]:
    return model.model_dump(mode="json")
