"""What a histogram of log10 milliseconds says of requests. Pure."""

from __future__ import annotations

import math

from milonga_hub.telemetry.figures import Histogram


def latency_at(histogram: Histogram, share: float) -> float:
    """Return the milliseconds within which this share of all requests was answered; they lie evenly within a bin."""
    rank, below = share * sum(histogram.counts), 0.0
    for index, count in enumerate(histogram.counts):
        if count and below + count >= rank:
            return float(10 ** (histogram.low + (index + (rank - below) / count) * _width(histogram)))
        below += count
    return float(10**histogram.high)


def requests_slower(histogram: Histogram, milliseconds: float) -> int:
    """Return how many requests took longer, to the nearest one."""
    place = (math.log10(max(milliseconds, 1e-9)) - histogram.low) / _width(histogram)
    bin_ = min(max(math.floor(place), 0), len(histogram.counts) - 1)
    within = min(max(bin_ + 1 - place, 0.0), 1.0)
    return sum(histogram.counts[bin_ + 1 :]) + round(within * histogram.counts[bin_])


def _width(histogram: Histogram) -> float:
    return (histogram.high - histogram.low) / len(histogram.counts)
