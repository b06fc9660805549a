"""Whether devices have drifted: windows in, drift events out."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, select
from sqlmodel import update as update_rows

from milonga_hub.db import Database
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftMethod, DriftPolicy
from milonga_hub.telemetry.detectors import Detectors, Subject
from milonga_hub.telemetry.memory import Memory
from milonga_hub.telemetry.models import DriftEvent, TelemetryWindow, TelemetryWindowRow
from milonga_hub.telemetry.rows import all_columns, windows_of
from milonga_hub.telemetry.rules import Signal, drifted

_log = logging.getLogger(__name__)

# Of one device, for one judgement: at 30 seconds a window, four hours.
_LOOK_BACK_WINDOWS = 500


class Judge:
    """Judges windows as they are stored, in one thread at a time, so that a device has one open event for a signal."""

    def __init__(
        self,
        database: Database,
        events: EventBus,
        reference_of: Callable[[str], Mapping[str, Any] | None],
        policy_of: Callable[[str], DriftPolicy],
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._events = events
        self._reference_of = reference_of
        self._policy_of = policy_of
        self._clock = clock
        self._memory = Memory(database)
        self._references: dict[str, Mapping[str, Any]] = {}
        self._detectors = Detectors(self._memory)
        self._open: defaultdict[tuple[str, str], set[str]] | None = None
        self._judging = threading.Lock()

    def begin(self) -> None:
        """Forget what was seen: others may have judged since, and windows are read again from the database."""
        with self._judging:
            self._detectors, self._open = Detectors(self._memory), None

    def judge(self, windows: Sequence[TelemetryWindow]) -> None:
        """Judge new windows; what cannot be judged is said in the log."""
        by_subject: defaultdict[tuple[str, str, str, str], list[TelemetryWindow]] = defaultdict(list)
        for window in windows:
            if window.project and window.bundle:
                by_subject[window.device, window.project, window.bundle, window.model_version].append(window)
        waiting = list(by_subject.values())
        with self._judging:
            while waiting:
                # A device that has changed its bundle meanwhile is judged twice, one after the other.
                now: dict[tuple[str, str], list[TelemetryWindow]] = {}
                waiting = [its for its in waiting if now.setdefault((its[0].project, its[0].device), its) is not its]
                self._judge(list(now.values()))

    def _judge(self, together: Sequence[Sequence[TelemetryWindow]]) -> None:
        subjects = [subject for its in together if (subject := self._subject(its)) is not None]
        for subject, signals in zip(subjects, self._detectors.observe(subjects), strict=True):
            with _said_in_log(subject.device):
                for signal in signals:
                    self._raise(subject.windows[-1], signal, subject.policy)
                self._end(subject, {signal.name for signal in signals})

    def _subject(self, windows: Sequence[TelemetryWindow]) -> Subject | None:
        """Return what is to be judged by the sequential method; None where nothing is, or it was judged by the other."""
        one = windows[0]
        with _said_in_log(one.device):
            policy = self._policy_of(one.project)
            reference = self.reference(one.bundle) if policy.enabled else None
            if reference is None:
                self._detectors.forget(one.project, one.device)
            elif policy.method is DriftMethod.THRESHOLD:
                for signal in drifted(policy, reference, self._recent(one.device, one.bundle)):
                    self._raise(one, signal, policy)
            else:
                return Subject(policy, reference, sorted(windows, key=lambda window: window.id or 0))
        return None

    def reference(self, bundle: str) -> Mapping[str, Any] | None:
        """Manifests never change, so each is read once."""
        if bundle not in self._references:
            found = self._reference_of(bundle)
            if found is None:
                return None
            self._references[bundle] = found
        return self._references[bundle]

    def _recent(self, device: str, bundle: str) -> list[TelemetryWindow]:
        """Return windows newest first, in the order of the device's clock: a spool may arrive late."""
        statement = (
            all_columns()
            .where(col(TelemetryWindowRow.device) == device, col(TelemetryWindowRow.bundle) == bundle)
            .order_by(col(TelemetryWindowRow.id).desc())
            .limit(_LOOK_BACK_WINDOWS)
        )
        with self._database.session() as session:
            return sorted(windows_of(session, statement), key=lambda window: window.ended_at, reverse=True)

    def _raise(self, window: TelemetryWindow, signal: Signal, policy: DriftPolicy) -> None:
        now = self._clock()
        same = select(DriftEvent).where(
            DriftEvent.device == window.device,
            DriftEvent.model_version == window.model_version,
            DriftEvent.signal == signal.name,
        )
        with self._database.session() as session:
            last = session.exec(same.order_by(col(DriftEvent.id).desc()).limit(1)).first()
            if last is not None and _stands(last, now, policy):
                return
            event = DriftEvent(
                id=f"{now:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}",
                project=window.project,
                device=window.device,
                model_version=window.model_version,
                signal=signal.name,
                statistic=signal.statistic,
                threshold=signal.threshold,
                p_value=signal.p_value,
                sample_count=signal.sample_count,
                detected_at=now,
                message=f"{window.device}: {signal.message}",
                began_at=signal.began_at,
            )
            session.add(event)
        self._open_events()[window.project, window.device].add(signal.name)
        self._events.publish(f"drift/{window.project}", event)

    def _end(self, subject: Subject, drifted: Collection[str]) -> None:
        """Note which signals of the device that had drifted are as they should be again."""
        open_ = self._open_events().get((subject.project, subject.device))
        calm = self._detectors.calm(subject, open_ - set(drifted)) if open_ else None
        if not open_ or not calm:
            return
        ended = update_rows(DriftEvent).where(
            col(DriftEvent.project) == subject.project,
            col(DriftEvent.device) == subject.device,
            col(DriftEvent.signal).in_(calm),
            col(DriftEvent.ended_at).is_(None),
        )
        with self._database.session() as session:
            session.exec(ended.values(ended_at=self._clock()))
        open_ -= calm

    def _open_events(self) -> defaultdict[tuple[str, str], set[str]]:
        """Return the signals that have drifted and are not over, by project and device: asked of the database once, not with each window."""
        if self._open is None:
            columns = (DriftEvent.project, DriftEvent.device, DriftEvent.signal)
            with self._database.session() as session:
                found = session.exec(select(*columns).where(col(DriftEvent.ended_at).is_(None))).all()
            self._open = defaultdict(set)
            for project, device, signal in found:
                self._open[project, device].add(signal)
        return self._open


@contextmanager
def _said_in_log(device: str) -> Iterator[None]:
    """The windows are stored all the same, and the next one is judged again."""
    try:
        yield
    except Exception:
        _log.exception("could not judge whether %s has drifted", device)


def _stands(event: DriftEvent, now: datetime, policy: DriftPolicy) -> bool:
    """One event at a time; after it has been answered, none for the cool-down, since the answer takes its time."""
    if event.ended_at is not None:
        return False
    return event.triggered_run == "" or now < event.detected_at + timedelta(seconds=policy.cool_down_seconds)
