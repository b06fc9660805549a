"""Whether what was measured on a device type in earlier runs still holds: a few of them are taken again, and compared.

Latency does not depend on weights, so that a supernet that is trained on leaves its subnets as fast as they were. A new engine, driver or
governor does not: what was measured before them is then of another device, as it were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]

#: Measurements that are taken again in each precision, from the fastest to the slowest.
AGAIN = 3
#: How much the middle one may have changed, relative. Latency models are trusted up to twice that error.
MOST_CHANGE = 0.1
# Of precisions after the first, whose measurements teach them.
_FEWEST = 5


def standing(taken: Sequence[Row], precision: str, count: int) -> list[Row]:
    """Return of measurements, the oldest first, those since a run last measured the device type anew, of each network the newest.

    That run took `count` or more in the first precision; what older ones measured was found not to hold any more.
    """
    runs: dict[str, list[Row]] = {}
    for one in taken:
        runs.setdefault(one["run"], []).append(one)
    newest: dict[tuple[str, str], Row] = {}
    for some in reversed(runs.values()):
        for one in reversed(some):
            row = {key: value for key, value in one.items() if key not in ("run", "purpose")}
            newest.setdefault((one["subnet"], one["precision"]), row)
        if sum(one["purpose"] == "profile" and one["precision"] == precision for one in some) >= count:
            break
    return list(newest.values())


def to_take_again(before: Sequence[Row], precisions: Sequence[str], count: int) -> list[Row]:
    """Return which rows ({"subnet", "precision", "median_ms", ...}) to take again; none where a precision has too few.

    `count` is how many are measured in the first precision where nothing was measured before.
    """
    chosen: list[Row] = []
    for precision in precisions:
        rows = sorted((one for one in before if one["precision"] == precision), key=lambda one: one["median_ms"])
        if len(rows) < max(AGAIN, count if precision == precisions[0] else min(count, _FEWEST)):
            return []
        chosen += [rows[round(place * (len(rows) - 1) / (AGAIN - 1))] for place in range(AGAIN)]
    return chosen


def change(before: Sequence[Row], again: Sequence[Row]) -> float | None:
    """Return by how much what was taken again differs, relative, in the precision that changed most; None where some failed."""
    old = {(one["subnet"], one["precision"]): one["median_ms"] for one in before}
    changes: dict[str, list[float]] = {}
    for one in again:
        if one["median_ms"] is None:
            return None
        ratio = one["median_ms"] / old[one["subnet"], one["precision"]]
        changes.setdefault(one["precision"], []).append(abs(math.log(ratio)))
    return math.expm1(max(median(some) for some in changes.values()))


def together(before: Sequence[Row], again: Sequence[Row]) -> list[Row]:
    """Return all rows, those that were taken again as they are now."""
    renewed = {(one["subnet"], one["precision"]) for one in again}
    return [*(one for one in before if (one["subnet"], one["precision"]) not in renewed), *again]
