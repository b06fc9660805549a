"""What the features of networks say for predicting latency: choices, counts of choices, and costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A column with as few values holds a choice, not a quantity.
_MOST_CHOICES = 12


@dataclass(frozen=True)
class Structure:
    """Networks (n rows) as numbers whose differences matter equally.

    `choices` (n, c) and `counts` (n, d) are standardised, with a mean squared length of 1; `costs` (n, e) are above 0 and
    grow with latency, as MACs do.
    """

    choices: Floats
    counts: Floats
    costs: Floats

    @classmethod
    def of(cls, features: Floats, macs: Floats | None) -> Structure:
        """Return the structure of features (n, f). Raises ValueError where they are not finite or not a table."""
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"features have shape {features.shape}; a row for each of two or more networks is needed")
        if not np.isfinite(features).all():
            raise ValueError("features hold values that are not finite")
        columns = [column for column in features.T if np.ptp(column) > 0]
        quantities = [column for column in columns if column.min() > 0 and len(np.unique(column)) > _MOST_CHOICES]
        costs = [np.asarray(macs, dtype=np.float64)] if macs is not None and np.ptp(macs) > 0 else []
        for cost in costs:
            if cost.shape != (len(features),) or not np.isfinite(cost).all() or cost.min() <= 0:
                raise ValueError("macs must be one finite number above 0 for each network")
        costs += [one for one in quantities if not any(_alike(one, other) for other in costs)]
        plain = [column for column in columns if not any(column is one for one in quantities)]
        choices = [*plain, *_indicators(plain), *(np.log(one) for one in costs)]
        return cls(
            _standard(choices, len(features)),
            _standard(_counts(plain, features), len(features)),
            _table(costs, len(features)),
        )


def _alike(first: Floats, second: Floats) -> bool:
    return bool(np.allclose(first / first.mean(), second / second.mean(), rtol=1e-6))


def _table(columns: list[Floats], rows: int) -> Floats:
    return np.stack(columns, axis=1) if columns else np.empty((rows, 0))


def _standard(columns: list[Floats], rows: int) -> Floats:
    table = _table(columns, rows)
    table = table[:, np.ptp(table, axis=0) > 0] if columns else table
    if not table.shape[1]:
        return table
    return np.asarray((table - table.mean(axis=0)) / table.std(axis=0) / np.sqrt(table.shape[1]))


def _is_choice(column: Floats) -> bool:
    values = np.unique(column)
    return 3 <= len(values) <= _MOST_CHOICES and bool((values == np.round(values)).all())


def _indicators(columns: list[Floats]) -> list[Floats]:
    """Return for each choice that is written as a number one column for each of its values."""
    return [
        np.asarray(column == value, dtype=np.float64)
        for column in columns
        if _is_choice(column)
        for value in np.unique(column)
    ]


def _counts(columns: list[Floats], features: Floats) -> list[Floats]:
    """Return how often each value is chosen, over all choices that are made from the same values."""
    chosen = [column for column in columns if _is_choice(column)]
    if len(chosen) >= 2:
        values = np.unique(np.concatenate([np.unique(column) for column in chosen]))
        return [np.sum([column == value for column in chosen], axis=0).astype(np.float64) for value in values]
    # A value that no network chooses leaves a column of zeros, which belongs to its block all the same.
    binary = [column for column in features.T if set(np.unique(column)) <= {0.0, 1.0}]
    width = _block_width(binary)
    return [np.sum(binary[offset::width], axis=0) for offset in range(width)] if width else []


def _block_width(binary: list[Floats]) -> int:
    """Return the width of the blocks where columns are choices written as one-hot blocks of equal width; otherwise 0."""
    for width in range(3, _MOST_CHOICES + 1):
        if len(binary) >= 2 * width and len(binary) % width == 0:
            blocks = np.stack(binary).reshape(len(binary) // width, width, -1).sum(axis=1)
            if (blocks == 1).all():
                return width
    return 0


def squared_distances(left: Floats, right: Floats) -> Floats:
    """Return (left, right) squared Euclidean distances of rows."""
    found = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * left @ right.T
    return np.asarray(np.maximum(found, 0.0))
