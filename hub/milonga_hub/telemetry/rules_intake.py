"""What the hub takes from a device: windows that an honest one could have sent, no more of them than it can have made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from milonga.pictures import BINS

from milonga_hub.telemetry.figures import Histogram, Percentiles
from milonga_hub.telemetry.models import TelemetryWindow

# Far beyond any device, and small enough that the sums of a fleet's years stay within 64 bits.
_MOST_COUNT = 10**9
_MOST_BYTES = 1 << 50
MOST_CLASSES, MOST_STATISTICS = 10_000, 32
_MOST_BINS = 1_000
# No engine answers as often.
_MOST_PER_SECOND = 100_000
# In a usual window, whatever its clock says.
_USUAL_REQUESTS = 30 * _MOST_PER_SECOND
# 256 pictures in a request, and 300 boxes in each.
MOST_ANSWERS = 256 * 300
_LONGEST, _USUAL = timedelta(days=1), timedelta(seconds=30)
# Clocks of boards begin at 1970, and those that are wrong the other way at about 2106; all else is no clock's.
_EARLIEST_YEAR = 1970
_LONGEST_NAME = 256
_STATISTIC = re.compile(r"[a-z][a-z0-9_]{0,31}")
_STATISTIC_SHOWN = 32
# A clock that is a little ahead is no liar's.
_AHEAD = timedelta(minutes=5)


def flaw(window: TelemetryWindow) -> str:
    """Return why no honest device would send this window, "" where one might."""
    if window.ended_at.year < _EARLIEST_YEAR or window.started_at.year < _EARLIEST_YEAR:
        return f"it is of {window.started_at:%F} to {window.ended_at:%F}"
    if not 0 <= window.memory_bytes <= _MOST_BYTES:
        return f"memory_bytes is {window.memory_bytes}"
    if window.cpu_percent is not None and not 0 <= window.cpu_percent <= 1e6:
        return f"cpu_percent is {window.cpu_percent}"
    if window.temperature_celsius is not None and not -273 <= window.temperature_celsius <= 1000:
        return f"temperature_celsius is {window.temperature_celsius}"
    if words := (
        _implausible_names(window)
        or _implausible_requests(window)
        or _implausible_count("dropped_count", window.dropped_count)
    ):
        return words
    # Those that are packed have been looked at.
    return "" if window.packed is not None else _implausible_parts(window)


def _implausible_parts(window: TelemetryWindow) -> str:
    if len(window.class_counts) > MOST_CLASSES:
        return f"it counts {len(window.class_counts)} classes"
    if len(window.inputs) > MOST_STATISTICS:
        return f"it has {len(window.inputs)} statistics of pictures"
    return (
        ("" if window.latency_ms is None else _implausible_latency(window.latency_ms))
        or _implausible_counts("class_counts", window.class_counts)
        or _implausible_histograms(window)
        or _implausible_answers(window)
    )


def _implausible_requests(window: TelemetryWindow) -> str:
    """Return what no machine can have done in the time: figures of one device must not drown those of all others."""
    requests, errors = window.request_count, window.error_count
    if 0 <= errors <= requests <= _USUAL_REQUESTS:
        return ""
    if words := _implausible_count("request_count", requests) or _implausible_count("error_count", errors):
        return words
    if errors > requests:
        return f"{errors} of {requests} requests failed"
    lasted = window.ended_at - window.started_at
    seconds = max(_USUAL, lasted if lasted <= _LONGEST else _USUAL).total_seconds()
    return f"request_count is {requests} in {seconds:.0f} s" if requests > _MOST_PER_SECOND * seconds else ""


def _implausible_answers(window: TelemetryWindow) -> str:
    most = window.request_count * MOST_ANSWERS
    answers = max(sum(window.class_counts), 0 if window.confidence is None else sum(window.confidence.counts))
    return f"it counts {answers} answers to {window.request_count} requests" if answers > most else ""


def _implausible_histograms(window: TelemetryWindow) -> str:
    if window.log10_latency_ms is not None and (
        words := _implausible_histogram("log10_latency_ms", window.log10_latency_ms)
    ):
        return words
    if window.confidence is not None and (words := _implausible_histogram("confidence", window.confidence)):
        return words
    for name, histogram in window.inputs.items():
        if words := statistic_flaw(name, histogram):
            return words
    return ""


def statistic_flaw(name: str, histogram: Histogram) -> str:
    """Return why no honest device would send this statistic of pictures, or of its machine, "" where one might."""
    if name not in BINS and not _STATISTIC.fullmatch(name):
        return f"it has a statistic of pictures called {name[:_STATISTIC_SHOWN]!r}"
    return _implausible_histogram(name, histogram, "inputs.")


def righted(window: TelemetryWindow, now: datetime) -> TelemetryWindow:
    """Return the window with times that can be.

    Where its device's clock runs ahead it ends now: it must neither rule charts nor stay for ever. Where the clock was set
    meanwhile, which every board without a battery does after it starts, it is as long as windows usually are.
    """
    lasted, ended = window.ended_at - window.started_at, window.ended_at
    if ended > now + _AHEAD:
        ended = now
    if not timedelta() <= lasted <= _LONGEST:
        lasted = _USUAL
    if (ended - lasted, ended) == (window.started_at, window.ended_at):
        return window
    return replace(window, started_at=ended - lasted, ended_at=ended)


@dataclass
class Allowance:
    """How many windows of a device are taken: as many as it makes, and what it had to keep while the hub was away.

    A bucket that holds `most` and fills by `per_second`; times are of any clock that does not go back.
    """

    per_second: float
    most: float
    left: float
    at: float

    @classmethod
    def full(cls, now: float, per_second: float = 10.0, most: float = 20_000.0) -> Allowance:
        """Return a new device's. A spool holds some weeks of windows, and is sent at once."""
        return cls(per_second, most, most, now)

    def take(self, now: float) -> bool:
        """Return whether one more may come."""
        self.left = min(self.most, self.left + (now - self.at) * self.per_second)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


def _implausible_names(window: TelemetryWindow) -> str:
    # Usual ones in one step: some thousand windows come each second.
    together = window.boot_id + window.bundle + window.model_version + window.project
    if len(together) <= _LONGEST_NAME and together.isprintable():
        return ""
    for name in ("boot_id", "bundle", "model_version", "project"):
        text = getattr(window, name)
        if len(text) > _LONGEST_NAME:
            return f"{name} is longer than {_LONGEST_NAME} letters"
        if not text.isprintable():
            return f"{name} has letters that cannot be shown: {text!r}"
    return ""


def _implausible_latency(latency: Percentiles) -> str:
    for name in ("p50", "p90", "p99", "mean"):
        if not 0 <= getattr(latency, name) <= 1e9:
            return f"latency_ms.{name} is {getattr(latency, name)}"
    if not latency.p50 <= latency.p90 <= latency.p99:
        return f"latency_ms has p50 {latency.p50}, p90 {latency.p90} and p99 {latency.p99}"
    return _implausible_count("latency_ms.count", latency.count)


def _implausible_histogram(name: str, histogram: Histogram, place: str = "") -> str:
    counts = histogram.counts
    if not counts:
        return ""
    if len(counts) > _MOST_BINS:
        return f"{place}{name} has {len(counts)} bins"
    if not histogram.low < histogram.high:
        return f"{place}{name} reaches from {histogram.low} to {histogram.high}"
    # Those of other edges cannot be added up: a first one would keep all others out of a sum.
    if (histogram.low, histogram.high, len(counts)) != BINS.get(name, (histogram.low, histogram.high, len(counts))):
        return (
            f"{place}{name} has {len(counts)} bins from {histogram.low} to {histogram.high}, and this hub knows others"
        )
    return _implausible_counts(f"{place}{name}", counts)


def _implausible_counts(name: str, counts: Sequence[int]) -> str:
    # Of the least and the most: to look at each would be half of what a window costs here.
    if not counts or (min(counts) >= 0 and max(counts) <= _MOST_COUNT):
        return ""
    return next(words for count in counts if (words := _implausible_count(name, count)))


def _implausible_count(name: str, count: int) -> str:
    return "" if 0 <= count <= _MOST_COUNT else f"{name} is {count}"
