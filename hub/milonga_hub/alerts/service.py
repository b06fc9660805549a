"""Alerts: opened once while something is wrong, told to people, and resolved when it is over."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from sqlmodel import Session, col, or_, select

from milonga_hub.alerts import rules
from milonga_hub.alerts.definitions import Definitions
from milonga_hub.alerts.deliveries import Deliveries
from milonga_hub.alerts.models import Alert, AlertDelivery, AlertState, RuleView, Silence
from milonga_hub.alerts.rules import OPENED, RESOLVED
from milonga_hub.alerts.rules_findings import Facts, Finding, findings, threshold_of
from milonga_hub.db import Database, utc_now
from milonga_hub.errors import FailedPrecondition, InvalidInput, NotFound
from milonga_hub.events import EventBus
from milonga_hub.paging import of_projects, page

_log = logging.getLogger(__name__)

# AlertService.list hides the builtin inside the class.
_Alerts = list[Alert]
_Silences = list[Silence]
_Deliveries = list[AlertDelivery]
_Names = list[str]

# Looked at again this often without news: times pass, and telemetry comes all the time.
_LOOK_SECONDS = 15.0
# News come in bursts; one look answers all of a burst.
_SETTLE_SECONDS = 1.0

Subject = tuple[str, str]


class Sight(Protocol):
    def facts(self, since: datetime) -> Facts:
        """Return how the fleet is now, with the telemetry since that time."""

    def projects(self) -> _Names:
        """Return the names of the projects that the caller may see."""


class AlertService:
    """Keeps alerts and silences; `definitions` has rules and channels, `deliveries` the messages."""

    def __init__(
        self,
        database: Database,
        events: EventBus,
        observer: Sight,
        clock: Callable[[], datetime] = utc_now,
        source: str = "/",
    ) -> None:
        """`source` names the hub in the events that it sends."""
        self._database = database
        self._events = events
        self._observer = observer
        self._clock = clock
        self.definitions = Definitions(database, observer.projects, clock)
        self.deliveries = Deliveries(database, self.definitions, source, clock)
        # When findings were first seen that have not stood long enough yet. A hub that restarts begins anew.
        self._first_seen: dict[Subject, datetime] = {}
        # While a hub is down it sees no device: what is older than its start has not stood for longer than that.
        self._began = clock()
        # One look at a time, and no change by hand within one.
        self._changing = database.turn("alerts")

    # Alerts

    def get(self, id: str) -> Alert:
        with self._database.session() as session:
            return _found(session, id)

    def list(
        self,
        state: AlertState | None = None,
        project: str = "",
        subject: str = "",
        page_size: int = 0,
        page_token: str = "",
        projects: Collection[str] | None = None,
    ) -> tuple[_Alerts, str]:
        """Return alerts, the newest first."""
        statement = of_projects(select(Alert), col(Alert.project), projects)
        if state is not None:
            statement = statement.where(Alert.state == state)
        if project:
            statement = statement.where(Alert.project == project)
        if subject:
            statement = statement.where(Alert.subject == subject)
        with self._database.session() as session:
            return page(session, statement, col(Alert.id), page_size, page_token, newest_first=True)

    def changed_since(self, moment: datetime) -> _Alerts:
        """Return the alerts that opened or resolved since then."""
        recent = or_(col(Alert.opened_at) >= moment, col(Alert.resolved_at) >= moment)
        with self._database.session() as session:
            return [*session.exec(select(Alert).where(recent))]

    def acknowledge(self, id: str, by: str, note: str = "") -> Alert:
        """Note that somebody looks after it: nothing more is sent until it has resolved.

        Who says so later takes it over; the note keeps what those before said. Saying the same again changes nothing.
        """
        if not by.strip():
            raise InvalidInput("by must say who acknowledges, so that others know whom to ask")
        with self._changing, self._database.session() as session:
            alert = _found(session, id)
            if alert.state is AlertState.RESOLVED:
                raise FailedPrecondition(f"{id} has resolved already ({alert.resolution}); nothing is to be done")
            if rules.is_said(alert, by.strip(), note.strip()):
                return alert
            alert.note = rules.note_with(alert, note.strip())
            alert.acknowledged_at, alert.acknowledged_by = self._clock(), by.strip()
            session.add(alert)
        self._tell([alert])
        return alert

    def messages(self, id: str) -> _Deliveries:
        """Return what was sent, or is to be sent, about an alert."""
        return self.deliveries.of_alert(self.get(id).id)

    # Silences

    def silence(
        self, rule: str, subject: str, until: datetime, reason: str, created_by: str = "", request_id: str = ""
    ) -> Silence:
        """Send nothing about these alerts until then; "" means all rules, all subjects. Safe to repeat with an id."""
        now = self._clock()
        if until <= now:
            raise InvalidInput(f"until must lie ahead; {until:%Y-%m-%d %H:%M} UTC is over")
        if not reason.strip():
            raise InvalidInput("reason must say why, so that others know whether it still holds")
        rules.check_subject(subject)
        if rule and all(rule != one.name for one in self.definitions.rules()):
            raise NotFound(f"there is no alert rule {rule!r} to silence; see: milonga alerts rules")
        with self._changing, self._database.session() as session:
            id = request_id or f"{now:%y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}"
            known = session.get(Silence, id)
            if known is not None:
                return known
            made = Silence(
                id=id,
                rule=rule,
                subject=subject,
                reason=reason.strip(),
                created_by=created_by.strip(),
                created_at=now,
                until=until,
            )
            session.add(made)
        self.look()
        return made

    def silences(self, page_size: int = 0, page_token: str = "") -> tuple[_Silences, str]:
        """Return silences, the newest first, those that have ended too."""
        with self._database.session() as session:
            return page(session, select(Silence), col(Silence.created_at), page_size, page_token, newest_first=True)

    def end_silence(self, id: str) -> Silence:
        """Let messages go out again from now on."""
        now = self._clock()
        with self._changing, self._database.session() as session:
            silence = session.get(Silence, id)
            if silence is None:
                raise NotFound(f"there is no silence {id}; see: milonga alerts silences")
            silence.until = min(silence.until, now)
            session.add(silence)
        self.look()
        return silence

    # Looking

    async def run(self) -> None:
        """Look again after news of the fleet, and at least every few seconds, until cancelled."""
        with self._events.listen("devices/", "projects/", "rollouts/", "drift/") as news:
            while True:
                began = time.monotonic()
                try:
                    await asyncio.to_thread(self.look)
                except Exception:
                    # Alerts of one bad moment must not end the hub that they watch.
                    _log.exception("could not look for alerts; trying again")
                # A large fleet always has news, and takes longer to look at: never more than a tenth of the time.
                settle_seconds = max(_SETTLE_SECONDS, 9 * (time.monotonic() - began))
                try:
                    await news.next(_LOOK_SECONDS)
                    await asyncio.sleep(settle_seconds)
                except TimeoutError:
                    continue

    def look(self) -> _Alerts:
        """Open and resolve what has changed, queue the messages, and return the alerts that changed."""
        with self._changing:
            now = self._clock()
            known = self.definitions.rules()
            wrong = self._wrong(known, now)
            with self._database.session() as session:
                changed = self._update(session, {rule.name: rule for rule in known}, wrong, now)
        if changed:
            self.deliveries.wake()
            self._tell(changed)
        return changed

    def _wrong(self, known: Sequence[RuleView], now: datetime) -> dict[Subject, Finding]:
        """Return what each rule finds, by rule and subject."""
        seen: dict[float, Facts] = {}
        found: dict[Subject, Finding] = {}
        for rule in known:
            if not rule.spec.enabled:
                continue
            stretch = rule.spec.over_seconds
            if stretch not in seen:
                seen[stretch] = self._observer.facts(now - timedelta(seconds=stretch))
            found.update({(rule.name, one.subject): one for one in findings(rule.spec, seen[stretch])})
        self._first_seen = {key: self._first_seen.get(key, now) for key in found}
        return found

    def _update(
        self, session: Session, known: Mapping[str, RuleView], wrong: Mapping[Subject, Finding], now: datetime
    ) -> _Alerts:
        standing = {
            (one.rule, one.subject): one for one in session.exec(select(Alert).where(Alert.state == AlertState.OPEN))
        }
        changed = []
        for key, finding in wrong.items():
            since = finding.since or self._first_seen[key]
            if key not in standing and rules.stood_long_enough(known[key[0]].spec, max(since, self._began), now):
                standing[key] = _opened(known[key[0]], finding, since, now)
                changed.append(standing[key])
            elif key in standing and standing[key].next_step != finding.next_step:
                # Not told again, but nobody who looks is to read a command that is refused by now.
                standing[key].next_step = finding.next_step
                session.add(standing[key])
        resolved = [one for key, one in standing.items() if key not in wrong]
        for alert in resolved:
            alert.state, alert.resolved_at = AlertState.RESOLVED, now
            alert.resolution = _resolution(known.get(alert.rule))
        changed += resolved
        still_open = [one for one in standing.values() if one.state is AlertState.OPEN]
        already = {one.id for one in changed}
        changed += [one for one in self._silenced(session, still_open, now) if one.id not in already]
        session.add_all(changed)
        self._queue(session, known, still_open, resolved)
        return changed

    def _silenced(self, session: Session, alerts: Sequence[Alert], now: datetime) -> _Alerts:
        """Mark which alerts are silenced now; return those where that is new."""
        silences = session.exec(select(Silence).where(col(Silence.until) > now)).all()
        changed = []
        for alert in alerts:
            silence = rules.silence_of(alert, silences, now)
            until = silence.until if silence else None
            if alert.silenced_until != until:
                alert.silenced_until = until
                changed.append(alert)
        return changed

    def _queue(
        self, session: Session, known: Mapping[str, RuleView], standing: Sequence[Alert], resolved: Sequence[Alert]
    ) -> None:
        """Queue one message for each channel, rule and kind of news: a hundred devices that go at once are one message."""
        channels = [channel.name for channel in self.definitions.channels()]
        groups: defaultdict[tuple[str, str, str], _Alerts] = defaultdict(list)
        for alert in standing:
            hearing = rules.channels_of(known[alert.rule].spec.channels, channels) if rules.to_tell(alert) else []
            if hearing:
                # A hub without channels tells what still stands once it has one.
                alert.told_channels = hearing
                session.add(alert)
            for channel in hearing:
                groups[channel, alert.rule, OPENED].append(alert)
        for alert in resolved:
            for channel in alert.told_channels or ():
                if channel in channels:
                    groups[channel, alert.rule, RESOLVED].append(alert)
        for (channel, _, event), alerts in groups.items():
            self.deliveries.add(session, channel, event, alerts)

    def _tell(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            self._events.publish(f"alerts/{alert.id}", alert)


def _found(session: Session, id: str) -> Alert:
    alert = session.get(Alert, id.removeprefix("alerts/"))
    if alert is None:
        raise NotFound(f"there is no alert {id}; list them with: milonga alerts list")
    return alert


def _opened(rule: RuleView, finding: Finding, since: datetime, now: datetime) -> Alert:
    return Alert(
        # Short enough to stand in a table, for people copy it; ordered by time.
        id=f"{now:%y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}",
        rule=rule.name,
        signal=rule.spec.watch,
        subject=finding.subject,
        project=finding.project,
        severity=rule.spec.severity,
        message=finding.message,
        next_step=finding.next_step,
        value=finding.value,
        threshold=threshold_of(rule.spec),
        since=since,
        opened_at=now,
    )


def _resolution(rule: RuleView | None) -> str:
    if rule is None:
        return "its rule was deleted"
    return "it is over" if rule.spec.enabled else "its rule was switched off"
