"""How sure the answers of the last day were, by build: kept in memory, since policies ask every few seconds."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from milonga_hub.telemetry.added import histogram_sum
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.rules import add_counts

KEPT = timedelta(hours=24)
_HOUR = 3600


class Confidences:
    """Counts of the last 24 hours, as far as the hub has run. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By project, then by model version and bundle, then by hour.
        self._counts: defaultdict[str, dict[tuple[str, str], dict[int, list[int]]]] = defaultdict(dict)

    def add(self, windows: Iterable[TelemetryWindow]) -> None:
        groups: defaultdict[tuple[str, str, str, int], list[TelemetryWindow]] = defaultdict(list)
        for window in windows:
            if window.project:
                hour = int(window.received_at.timestamp()) // _HOUR
                groups[window.project, window.model_version, window.bundle, hour].append(window)
        with self._lock:
            for (project, version, bundle, hour), new in groups.items():
                found = histogram_sum("confidence", new)
                if found is None:
                    continue
                hours = self._counts[project].setdefault((version, bundle), {})
                hours[hour] = add_counts([hours.get(hour, []), found.counts])
                for old in [one for one in hours if one < hour - KEPT.total_seconds() / _HOUR]:
                    del hours[old]

    def of(self, project: str, now: datetime) -> dict[tuple[str, str], list[int]]:
        """Return the counts by model version and bundle of those that answered within the last 24 hours."""
        first = int((now - KEPT).timestamp()) // _HOUR
        with self._lock:
            found = {
                key: add_counts([counts for hour, counts in hours.items() if hour >= first])
                for key, hours in self._counts.get(project, {}).items()
            }
        return {key: counts for key, counts in found.items() if sum(counts) > 0}
