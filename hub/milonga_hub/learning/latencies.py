"""Latency of any subnet of a space on one device type, in each precision that was measured there."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milonga_hub.learning.latency import LatencyModel, Prediction, Quality, choose, fit
from milonga_hub.learning.spaces import Encoding, Space

Floats = NDArray[np.float64]
Timed = Mapping[Encoding, float]

# Of the stand-in: kernel widths to choose from, and the noise that keeps it smooth.
_LENGTHS = (0.5, 1.0, 2.0, 4.0)
_NOISE = 1e-3
# Subnets whose costs stand for the whole space.
_POOL = 400
# Fewer measurements in a precision say nothing of it.
_FEWEST = 3


class Features:
    """Numbers of subnets that latency depends on: choices one-hot, and costs. Rows are counted once and kept."""

    def __init__(self, space: Space, classes: int) -> None:
        self._space, self._classes = space, classes
        self._costs: dict[Encoding, tuple[int, ...]] = {}

    @classmethod
    def read(cls, space: Space, classes: int, path: Path) -> Features:
        """Return features whose rows in the file, as `write` left it, need not be counted again."""
        found = cls(space, classes)
        found._costs = {tuple(one): tuple(costs) for one, costs in json.loads(path.read_text(encoding="utf-8"))}
        return found

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(list(self._costs.items())), encoding="utf-8")

    def costs(self, encodings: Sequence[Encoding]) -> Floats:
        """Return (n, 5): MACs, parameters, activations, layers, and 1 + depthwise MACs."""
        for one in encodings:
            if one not in self._costs:
                cost = self._space.cost(one, self._classes)
                self._costs[one] = (cost.macs, cost.params, cost.activations, cost.layers, 1 + cost.depthwise_macs)
        return np.array([self._costs[one] for one in encodings], dtype=np.float64)

    def table(self, encodings: Sequence[Encoding]) -> Floats:
        """Return (n, f)."""
        return np.asarray(np.c_[self._space.one_hot(encodings), self.costs(encodings)])


class TypeLatency:
    """One latency model a precision; the other precisions of the type are further devices to each."""

    def __init__(
        self,
        features: Features,
        pool: Sequence[Encoding],
        measured: Mapping[str, Timed],
        elsewhere: Mapping[tuple[str, str], Timed],
    ) -> None:
        """`pool` is a sample of the space; `measured` ms by precision, at least 3 each; `elsewhere` by (type, precision).

        Raises ValueError where measurements are too few or not above 0.
        """
        self._features, self._measured, self._elsewhere = features, measured, elsewhere
        known = [one for timed in (*measured.values(), *elsewhere.values()) for one in timed]
        self._rows = list(dict.fromkeys([*pool, *known]))
        self._models = {precision: self._fitted(precision, self._rows) for precision in measured}
        self._quick = {precision: self._stand_in(model) for precision, model in self._models.items()}

    @property
    def precisions(self) -> list[str]:
        return list(self._models)

    def quality(self, precision: str) -> Quality:
        return self._models[precision].quality

    def ms(self, encodings: Sequence[Encoding], precision: str) -> Floats:
        """Return expected medians (n,), by a smooth stand-in for the model: fast, and for any subnet."""
        return self._quick[precision](encodings)

    def intervals(self, encodings: Sequence[Encoding], precision: str) -> Prediction:
        """Return medians and 80 % intervals (n,) by the model itself, fitted anew where it has not seen some of them."""
        missing = [one for one in encodings if one not in self._rows]
        rows, model = self._rows, self._models[precision]
        if missing:
            rows = [*self._rows, *dict.fromkeys(missing)]
            model = self._fitted(precision, rows)
        place = {one: number for number, one in enumerate(rows)}
        return model.predict([place[one] for one in encodings])

    def further(self, precision: str, count: int, tried: Collection[Encoding]) -> list[Encoding]:
        """Return which subnets to measure next in this precision, at most `count`; never those that were `tried`."""
        left = [row for row, one in enumerate(self._rows) if one not in tried]
        return [self._rows[row] for row in self._models[precision].further(count, left)]

    def _fitted(self, precision: str, rows: Sequence[Encoding]) -> LatencyModel:
        place = {one: number for number, one in enumerate(rows)}
        sources, families = {}, {}
        for (type_, other), timed in self._elsewhere.items():
            sources[f"{type_}|{other}"], families[f"{type_}|{other}"] = _column(timed, place), type_
        for other, timed in self._measured.items():
            if other != precision:
                sources[f"here|{other}"], families[f"here|{other}"] = _column(timed, place), "here"
        table = self._features.table(rows)
        own = self._measured[precision]
        target = [place[one] for one in own]
        macs = self._features.costs(rows)[:, 0]
        return fit(table, sources, target, list(own.values()), macs=macs, families=families)

    def _stand_in(self, model: LatencyModel) -> Callable[[Sequence[Encoding]], Floats]:
        logs = np.log(model.predict().median_ms)
        design, centre, spread = self._design(self._rows)
        trend = np.linalg.lstsq(design, logs, rcond=None)[0]
        residual = logs - design @ trend
        best: tuple[float, float, Floats] | None = None
        for length in _LENGTHS:
            inverse = np.linalg.inv(_near(design, design, length) + _NOISE * np.eye(len(logs)))
            pulled = inverse @ residual
            error = float(np.mean((pulled / np.diag(inverse)) ** 2))
            if best is None or error < best[0]:
                best = error, length, pulled
        assert best is not None
        _, length, pulled = best

        def predict(encodings: Sequence[Encoding]) -> Floats:
            other = self._design(encodings, centre, spread)[0]
            return np.asarray(np.exp(other @ trend + _near(other, design, length) @ pulled))

        return predict

    def _design(
        self, encodings: Sequence[Encoding], centre: Floats | None = None, spread: Floats | None = None
    ) -> tuple[Floats, Floats, Floats]:
        raw = np.c_[self._features.table(encodings), np.log(self._features.costs(encodings))]
        centre = raw.mean(axis=0) if centre is None else centre
        spread = np.maximum(raw.std(axis=0), 1e-9) if spread is None else spread
        scaled = (raw - centre) / spread / np.sqrt(raw.shape[1])
        return np.c_[np.ones(len(raw)), scaled], centre, spread


def _near(left: Floats, right: Floats, length: float) -> Floats:
    distance = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None] - 2 * left @ right.T
    return np.asarray(np.exp(-np.maximum(distance, 0) / (2 * length**2)))


def _column(timed: Timed, place: Mapping[Encoding, int]) -> Floats:
    found = np.full(len(place), np.nan)
    for one, ms in timed.items():
        found[place[one]] = ms
    return found


def to_measure(
    features: Features, pool: Sequence[Encoding], count: int, elsewhere: Mapping[tuple[str, str], Timed], seed: int
) -> list[Encoding]:
    """Return which subnets of the pool to measure on a new device type, the ones that say most of all others."""
    rows = list(dict.fromkeys([*pool, *(one for timed in elsewhere.values() for one in timed)]))
    place = {one: number for number, one in enumerate(rows)}
    sources = {f"{type_}|{precision}": _column(timed, place) for (type_, precision), timed in elsewhere.items()}
    families = {f"{type_}|{precision}": type_ for type_, precision in elsewhere}
    table, macs = features.table(rows), features.costs(rows)[:, 0]
    candidates = [place[one] for one in pool]
    chosen = choose(table, sources, count, macs=macs, families=families, candidates=candidates, seed=seed)
    return [rows[index] for index in chosen]


def pool(space: Space, seed: int) -> list[Encoding]:
    """Return a sample of the space, the same one in each job, with both ends."""
    source = random.Random(seed)
    return list(dict.fromkeys([space.smallest(), space.largest(), *(space.sample(source) for _ in range(_POOL))]))


def timed(measurements: Sequence[Mapping[str, Any]]) -> dict[str, Timed]:
    """Return measured ms by precision and subnet; precisions with too few are left out, unless there is no other."""
    found: dict[str, dict[Encoding, float]] = {}
    for one in measurements:
        found.setdefault(one.get("precision", "fp32"), {})[tuple(one["encoding"])] = float(one["median_ms"])
    return {precision: some for precision, some in found.items() if len(some) >= _FEWEST} or dict(found)


def timed_elsewhere(spec: Mapping[str, Any]) -> dict[tuple[str, str], Timed]:
    """Return what other types measured, by type and precision; `spec["elsewhere"]` may be missing."""
    return {
        (one["device_type"], precision): some
        for one in spec.get("elsewhere", ())
        for precision, some in timed(one["measurements"]).items()
    }
