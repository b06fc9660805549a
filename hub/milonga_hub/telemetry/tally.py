"""Totals of what devices served since the hub started, by model version: for counters that only grow."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from milonga_hub.telemetry.added import histogram_sum
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.models import TelemetryWindow
from milonga_hub.telemetry.rules import merge_histograms
from milonga_hub.telemetry.rules_machine import POWER, THROTTLED

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
    # One entry a window, of machines that tell.
    power: Histogram | None = None
    throttled: Histogram | None = None


class Tally:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served: OrderedDict[tuple[str, str], Served] = OrderedDict()

    def add(self, windows: Iterable[TelemetryWindow]) -> None:
        groups: defaultdict[tuple[str, str], list[TelemetryWindow]] = defaultdict(list)
        for window in windows:
            groups[window.project, window.model_version].append(window)
        with self._lock:
            for key, new in groups.items():
                known = self._served.pop(key, Served(*key))
                self._served[key] = replace(
                    known,
                    window_count=known.window_count + len(new),
                    request_count=known.request_count + sum(window.request_count for window in new),
                    error_count=known.error_count + sum(window.error_count for window in new),
                    log10_latency_ms=_sum(known.log10_latency_ms, histogram_sum("log10_latency_ms", new)),
                    power=_sum(known.power, histogram_sum(POWER, new)),
                    throttled=_sum(known.throttled, histogram_sum(THROTTLED, new)),
                )
                if len(self._served) > MAX_VERSIONS:
                    self._served.popitem(last=False)

    def totals(self) -> list[Served]:
        """Return the totals, the version that was heard of last at the end."""
        with self._lock:
            return [*self._served.values()]


def _sum(known: Histogram | None, new: Histogram | None) -> Histogram | None:
    return merge_histograms([each for each in (known, new) if each is not None])
