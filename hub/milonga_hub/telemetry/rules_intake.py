"""What the hub takes from a device: windows that an honest one could have sent, no more of them than it can have made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from milonga_hub.telemetry.models import Histogram, TelemetryWindowView

# Far beyond any device, and small enough that the sums of a fleet's years stay within 64 bits.
_MOST_COUNT = 10**9
_MOST_BYTES = 1 << 50
_MOST_BINS, _MOST_CLASSES, _MOST_STATISTICS = 1_000, 10_000, 32
_LONGEST, _USUAL = timedelta(days=1), timedelta(seconds=30)
# Clocks of boards begin at 1970, and those that are wrong the other way at about 2106; all else is no clock's.
_EARLIEST_YEAR = 1970
_LONGEST_NAME = 256
# A clock that is a little ahead is no liar's.
_AHEAD = timedelta(minutes=5)


def flaw(window: TelemetryWindowView) -> str:
    """Return why no honest device would send this window, "" where one might."""
    return next(_flaws(window), "")


def righted(window: TelemetryWindowView, now: datetime) -> TelemetryWindowView:
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
    return window.model_copy(update={"started_at": ended - lasted, "ended_at": ended})


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


def _flaws(window: TelemetryWindowView) -> Iterator[str]:
    for name in ("boot_id", "bundle", "model_version", "project"):
        if len(getattr(window, name)) > _LONGEST_NAME:
            yield f"{name} is longer than {_LONGEST_NAME} letters"
    if window.ended_at.year < _EARLIEST_YEAR or window.started_at.year < _EARLIEST_YEAR:
        yield f"it is of {window.started_at:%F} to {window.ended_at:%F}"
    for name in ("request_count", "error_count", "dropped_count"):
        yield from _count_flaws(name, getattr(window, name))
    if not 0 <= window.memory_bytes <= _MOST_BYTES:
        yield f"memory_bytes is {window.memory_bytes}"
    if window.cpu_percent is not None and not 0 <= window.cpu_percent <= 1e6:
        yield f"cpu_percent is {window.cpu_percent}"
    if window.temperature_celsius is not None and not -273 <= window.temperature_celsius <= 1000:
        yield f"temperature_celsius is {window.temperature_celsius}"
    if window.latency_ms is not None:
        for name in ("p50", "p90", "p99", "mean"):
            if not 0 <= getattr(window.latency_ms, name) <= 1e9:
                yield f"latency_ms.{name} is {getattr(window.latency_ms, name)}"
        yield from _count_flaws("latency_ms.count", window.latency_ms.count)
    if len(window.class_counts) > _MOST_CLASSES:
        yield f"it counts {len(window.class_counts)} classes"
    yield from _counts_flaws("class_counts", window.class_counts)
    if len(window.inputs) > _MOST_STATISTICS:
        yield f"it has {len(window.inputs)} statistics of pictures"
    for name, histogram in {
        "log10_latency_ms": window.log10_latency_ms,
        "confidence": window.confidence,
        **{f"inputs.{name[:_LONGEST_NAME]}": each for name, each in window.inputs.items()},
    }.items():
        if histogram is not None:
            yield from _histogram_flaws(name, histogram)


def _histogram_flaws(name: str, histogram: Histogram) -> Iterator[str]:
    if len(histogram.counts) > _MOST_BINS:
        yield f"{name} has {len(histogram.counts)} bins"
    if histogram.counts and not histogram.low < histogram.high:
        yield f"{name} reaches from {histogram.low} to {histogram.high}"
    yield from _counts_flaws(name, histogram.counts)


def _counts_flaws(name: str, counts: Sequence[int]) -> Iterator[str]:
    # Of the least and the most: a generator for each would be half of what a window costs here.
    for count in (min(counts), max(counts)) if counts else ():
        yield from _count_flaws(name, count)


def _count_flaws(name: str, count: int) -> Iterator[str]:
    if not 0 <= count <= _MOST_COUNT:
        yield f"{name} is {count}"
