"""What the features of networks say for predicting latency: choices, counts of choices, and costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A column with as few values holds a choice, not a quantity.
_MOST_CHOICES = 12
_ADDED_PENALTY = 1e-3


@dataclass(frozen=True)
class Structure:
    """Networks (n rows) as numbers whose differences matter equally.

    `choices` (n, c) are standardised, with a mean squared length of 1; `slots` (n, s, v) are 1 where a slot chooses a
    value, of all slots that choose from the same values; `costs` (n, e) are above 0 and grow with latency, as MACs do.
    """

    choices: Floats
    slots: Floats
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
            _slots(plain, features),
            _table(costs, len(features)),
        )

    @cached_property
    def options(self) -> Floats:
        """Return (n, s * v), centred: which value each slot chooses."""
        table = self.slots.reshape(len(self.slots), -1)
        return np.asarray(table - table.mean(axis=0))

    def counts(self) -> Floats:
        """Return (n, v), standardised: how often each value is chosen."""
        return _standard(list(self.slots.sum(axis=1).T), len(self.slots))

    def weighed(self, latency: Floats) -> Floats:
        """Return (n, v), standardised: how often each value is chosen, where slots count by what they add to a latency (n,).

        Operators that a device runs badly cost it more where pictures and channels are many, so where all else does too.
        """
        size = self.added(latency[:, None])[:, :, 0].std(axis=1)
        return _standard(list((self.slots * size[None, :, None]).sum(axis=1).T), len(self.slots))

    def added(self, curves: Floats) -> Floats:
        """Return (s, v, c): what each value of each slot adds to each of the curves (n, c), 0 on average over networks."""
        _, slots, values = self.slots.shape
        table, square = self.options, self._square
        added = np.linalg.solve(square, table.T @ (curves - curves.mean(axis=0))).reshape(slots, values, -1)
        often = self.slots.mean(axis=0)[:, :, None]
        return np.where(often > 0, added - (often * added).sum(axis=1, keepdims=True), 0.0)

    @cached_property
    def _square(self) -> Floats:
        """What ridge regression on options inverts; the same whatever is regressed."""
        return np.asarray(
            self.options.T @ self.options + _ADDED_PENALTY * len(self.slots) * np.eye(self.options.shape[1])
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


def _slots(columns: list[Floats], features: Floats) -> Floats:
    """Return (n, slots, values), 1 where a slot chooses a value, of all choices that are made from the same values."""
    chosen = [column for column in columns if _is_choice(column)]
    if len(chosen) >= 2:
        table = _table(chosen, len(features))
        return np.asarray(table[:, :, None] == np.unique(table), dtype=np.float64)
    # A value that no network chooses leaves a column of zeros, which belongs to its block all the same.
    binary = [column for column in features.T if set(np.unique(column)) <= {0.0, 1.0}]
    width = _block_width(binary)
    return _table(binary, len(features)).reshape(len(features), -1, width) if width else np.empty((len(features), 0, 0))


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
