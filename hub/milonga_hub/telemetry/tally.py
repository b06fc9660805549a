"""Totals of what devices served since the hub started, by model version: for counters that only grow."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from milonga_hub.telemetry.models import Histogram, TelemetryWindowView
from milonga_hub.telemetry.rules import merge_histograms

# A fleet serves a handful of versions at a time; those that nobody has served for longest make room for new ones.
MAX_VERSIONS = 100


@dataclass(frozen=True)
class Served:
    project: str
    model_version: str
    window_count: int = 0
    request_count: int = 0
    error_count: int = 0
    log10_latency_ms: Histogram | None = None


class Tally:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served: OrderedDict[tuple[str, str], Served] = OrderedDict()

    def add(self, windows: Iterable[TelemetryWindowView]) -> None:
        with self._lock:
            for window in windows:
                key = (window.project, window.model_version)
                known = self._served.pop(key, Served(*key))
                both = [each for each in (known.log10_latency_ms, window.log10_latency_ms) if each is not None]
                self._served[key] = replace(
                    known,
                    window_count=known.window_count + 1,
                    request_count=known.request_count + window.request_count,
                    error_count=known.error_count + window.error_count,
                    log10_latency_ms=merge_histograms(both),
                )
                if len(self._served) > MAX_VERSIONS:
                    self._served.popitem(last=False)

    def totals(self) -> list[Served]:
        """Return the totals, the version that was heard of last at the end."""
        with self._lock:
            return [*self._served.values()]
