"""Medians of many devices at once, from histograms as they are stored: no list is made of any of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from milonga.v1 import common_pb2
from numpy.typing import NDArray

from milonga_hub.telemetry.figures import Histogram, Stored, unpacked
from milonga_hub.telemetry.rules import latency_quantiles, merge_histograms
from milonga_hub.telemetry.varints import numbers, varint

# The tag of `counts` in a Histogram: field 3, packed.
_COUNTS_TAG = b"\x1a"


def medians(groups: Sequence[Sequence[Stored]]) -> list[float | None]:
    """Return for each group of latencies what half of its requests took at most, in milliseconds; None for no requests."""
    found = _of_alike(groups)
    return [_of_one(group) for group in groups] if found is None else found


def _of_one(group: Sequence[Stored]) -> float | None:
    read: list[Histogram | None] = [unpacked("histogram", one) for one in group]
    merged = merge_histograms([one for one in read if one is not None])
    return latency_quantiles(merged, (0.5,))[0] if merged is not None and sum(merged.counts) > 0 else None


def _of_alike(groups: Sequence[Sequence[Stored]]) -> list[float | None] | None:
    """Return the medians of histograms that all have the same bins, as those of all devices have; None where not all do."""
    bodies = [(number, one) for number, group in enumerate(groups) for one in group if one]
    if not bodies or not all(isinstance(one, bytes) for _, one in bodies):
        return None
    first: Histogram = unpacked("histogram", bodies[0][1])
    head = common_pb2.Histogram(low=first.low, high=first.high).SerializeToString() + _COUNTS_TAG
    counts = _counts(head, [one for _, one in bodies if isinstance(one, bytes)], len(first.counts))
    if counts is None:
        return None
    owners = np.array([number for number, _ in bodies])
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    halves: list[float | None] = [None] * len(groups)
    for owner, half in zip(owners[starts], _halves(np.add.reduceat(counts, starts), first), strict=True):
        halves[owner] = None if np.isnan(half) else float(half)
    return halves


def _halves(counts: NDArray[np.int64], like: Histogram) -> NDArray[np.float64]:
    """As `latency_quantiles` of each row; not-a-number for one without requests."""
    up_to = np.cumsum(counts, axis=1)
    rank = up_to[:, -1:] / 2
    place = np.argmax(up_to >= rank, axis=1)
    rows = np.arange(len(counts))
    here = counts[rows, place]
    width = (like.high - like.low) / counts.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        within = (rank[:, 0] - (up_to[rows, place] - here)) / here
        return np.where(rank[:, 0] > 0, 10 ** (like.low + (place + within) * width), np.nan)


def _counts(head: bytes, packed: Sequence[bytes], bins: int) -> NDArray[np.int64] | None:
    """Return the counts (n, bins) of histograms that begin with `head`; None where one begins or is otherwise."""
    heads = {size: _head_of(head, size) for size in {len(one) for one in packed}}
    if not all(one.startswith(heads[len(one)]) for one in packed):
        return None
    payloads = [one[len(heads[len(one)]) :] for one in packed]
    values, ends = numbers(b"".join(payloads))
    # As many in each, not only in all together.
    last = np.cumsum([len(one) for one in payloads]) - 1
    if len(values) != bins * len(payloads) or not (ends[bins - 1 :: bins] == last).all():
        return None
    return values.reshape(-1, bins)


def _head_of(head: bytes, size: int) -> bytes:
    """Return what stands before the counts of a message of so many bytes: the head, and how many bytes the counts are."""
    rest = size - len(head)
    length = next((n for n in range(rest, 0, -1) if n + len(varint(n)) <= rest), 0)
    return head + varint(length)
