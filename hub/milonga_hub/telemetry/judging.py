"""Whether devices have drifted: windows in, drift events out."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import col, select
from sqlmodel import update as update_rows

from milonga_hub.db import Database
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftMethod, DriftPolicy
from milonga_hub.telemetry.detectors import Detectors
from milonga_hub.telemetry.models import DriftEvent, TelemetryWindow, TelemetryWindowRow
from milonga_hub.telemetry.rows import all_columns, windows_of
from milonga_hub.telemetry.rules import Signal, drifted

_log = logging.getLogger(__name__)

# Of one device, for one judgement: at 30 seconds a window, four hours.
_LOOK_BACK_WINDOWS = 500
# The first windows with a bundle, for the references that are made of them.
_FIRST_WINDOWS = 60


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
        self._references: dict[str, Mapping[str, Any]] = {}
        self._detectors = Detectors(self._before)
        self._judging = threading.Lock()

    def begin(self) -> None:
        """Forget what was seen: others may have judged since, and windows are read again from the database."""
        with self._judging:
            self._detectors = Detectors(self._before)

    def judge(self, windows: Sequence[TelemetryWindow]) -> None:
        """Judge new windows; what cannot be judged is said in the log."""
        subjects: defaultdict[tuple[str, str, str, str], list[TelemetryWindow]] = defaultdict(list)
        for window in windows:
            subjects[window.device, window.project, window.bundle, window.model_version].append(window)
        with self._judging:
            for (device, project, bundle, _), its in subjects.items():
                if not project or not bundle:
                    continue
                try:
                    self._judge(its)
                except Exception:
                    # The windows are stored all the same, and the next one is judged again.
                    _log.exception("could not judge whether %s has drifted", device)

    def _judge(self, windows: Sequence[TelemetryWindow]) -> None:
        one = windows[0]
        policy = self._policy_of(one.project)
        reference = self.reference(one.bundle) if policy.enabled else None
        if reference is None:
            self._detectors.forget(one.project, one.device)
            return
        if policy.method is DriftMethod.THRESHOLD:
            for signal in drifted(policy, reference, self._recent(one.device, one.bundle)):
                self._raise(one, signal, policy)
            return
        seen = self._detectors.observe(policy, reference, sorted(windows, key=lambda window: window.id or 0))
        for signal in seen.drifted:
            self._raise(one, signal, policy)
        if seen.calm:
            self._end(one, seen.calm)

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

    def _before(self, device: str, bundle: str, id_: int) -> list[TelemetryWindow]:
        """Return the first and the newest windows before this one, as they came."""
        place = col(TelemetryWindowRow.id)
        its = all_columns().where(
            col(TelemetryWindowRow.device) == device, col(TelemetryWindowRow.bundle) == bundle, place < id_
        )
        with self._database.session() as session:
            first = [*windows_of(session, its.order_by(place).limit(_FIRST_WINDOWS))]
            newest = [*windows_of(session, its.order_by(place.desc()).limit(_LOOK_BACK_WINDOWS))]
        found = {window.id or 0: window for window in (*first, *newest)}
        return [found[key] for key in sorted(found)]

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
        self._events.publish(f"drift/{window.project}", event)

    def _end(self, window: TelemetryWindow, calm: frozenset[str]) -> None:
        """Note that these signals of the device are as they should be again."""
        open_ = update_rows(DriftEvent).where(
            col(DriftEvent.project) == window.project,
            col(DriftEvent.device) == window.device,
            col(DriftEvent.signal).in_(calm),
            col(DriftEvent.ended_at).is_(None),
        )
        with self._database.session() as session:
            session.exec(open_.values(ended_at=self._clock()))


def _stands(event: DriftEvent, now: datetime, policy: DriftPolicy) -> bool:
    """One event at a time; after it has been answered, none for the cool-down, since the answer takes its time."""
    if event.ended_at is not None:
        return False
    return event.triggered_run == "" or now < event.detected_at + timedelta(seconds=policy.cool_down_seconds)
