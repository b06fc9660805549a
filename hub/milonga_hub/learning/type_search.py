"""The search for one device type: predictors, NSGA-II, and what is evaluated and measured before anything is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

import numpy as np
from milonga_compiler.engines import Precision
from milonga_compiler.target import Target

from milonga_hub.learning.accuracies import Accuracies
from milonga_hub.learning.drawing import drawing
from milonga_hub.learning.evaluation import PLAIN, Evaluated
from milonga_hub.learning.evolve import Choice, Figures, Found, search, thinned
from milonga_hub.learning.gains import expected_gains, expected_improvement
from milonga_hub.learning.latencies import Features, TypeLatency, pool, timed, timed_elsewhere
from milonga_hub.learning.memory import MemoryLine
from milonga_hub.learning.spaces import Encoding
from milonga_hub.learning.subnets import described
from milonga_hub.learning.supernet import Supernet

_LIMITS = ("latency_ms", "model_bytes", "memory_bytes")
# A page and a chart show no more.
_MAX_FRONT = 40
# Evaluated in each precision but fp32, to learn what it costs in accuracy.
_LOSS_SAMPLE = 3
# Evaluated between two fits of the accuracy model.
_ROUND = 4


class TypeSearch:
    """The search for one device type.

    `spec` says how much to search, `wanted` names the type with its limits, measurements and those "elsewhere": both as the
    spec of the search job has them (milonga_hub/search/job.py).
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        wanted: Mapping[str, Any],
        evaluated: Evaluated,
        accuracies: Accuracies,
        features: Features,
    ) -> None:
        """Raise ValueError where the type's measurements are too few or not above 0 ms."""
        self._spec, self._evaluated, self._accuracies = spec, evaluated, accuracies
        self._supernet = evaluated.supernet
        measured = timed(wanted["measurements"])
        elsewhere = timed_elsewhere(wanted)
        self._pool = pool(self._supernet.space, spec["seed"])
        self._latency = TypeLatency(features, self._pool, measured, elsewhere)
        self._precisions = self._latency.precisions
        engine = wanted.get("engine", PLAIN.engine)
        self._targets = [Target(engine, Precision(precision)) for precision in self._precisions]
        self._limits = {name: wanted["limits"][name] for name in _LIMITS if wanted["limits"].get(name) is not None}
        self._floor = wanted["limits"].get("min_accuracy")
        memory = _memory(self._supernet, wanted["measurements"])
        self._described = lru_cache(maxsize=None)(partial(_expected, self._supernet, memory))

    def refine(self, budget: int, tell: Callable[[int], None]) -> None:
        """Spend a budget of evaluations where the front of accuracy and latency is expected to gain most by them."""
        spent = 0
        for part in _parts(budget):
            chosen = self._worth_most(part)
            for encoding, target in chosen:
                self._evaluated.accuracy(encoding)
                if target.precision is not Precision.FP32 and self._evaluated.count(target) < _LOSS_SAMPLE:
                    self._evaluated.accuracy(encoding, target)
                spent += 1
                tell(spent)
            self._accuracies.learn()
            if not chosen:
                return

    def _worth_most(self, count: int) -> list[tuple[Encoding, Target]]:
        """Return subnets within the limits that were not evaluated, each where most is gained after those before it.

        By turns the most accurate subnet is sought, which is what a device gets, and the front, which is what people choose
        limits by.
        """
        known = self._fitting(list(self._evaluated.all()))
        seen = dict.fromkeys([*self._search().fitting, *self._fitting(self._pool)])
        new = [choice for choice in seen if self._evaluated.known(choice[0]) is None]
        if not new:
            return []
        judged, begin = self._judge([*known, *new]), len(known)
        accuracy, ms, slowest_ms = judged.accuracy[begin:], judged.ms[begin:], float(judged.ms.max())
        targets = [self._targets[option] for _, option in new]
        deviation = self._accuracies.predict([encoding for encoding, _ in new], targets)[1]
        front_accuracy, front_ms = judged.accuracy[:begin], judged.ms[:begin]
        chosen: dict[Encoding, Target] = {}
        while len(chosen) < min(count, len({encoding for encoding, _ in new})):
            if len(chosen) % 2 == 0:
                gains = expected_improvement(float(front_accuracy.max(initial=0.0)), accuracy, deviation)
            else:
                gains = expected_gains(front_accuracy, front_ms, accuracy, deviation, ms, slowest_ms)
            gains[[encoding in chosen for encoding, _ in new]] = -1.0
            best = int(gains.argmax())
            chosen[new[best][0]] = targets[best]
            # Until it is evaluated, it counts for what is expected of it: the next one is sought elsewhere.
            front_accuracy, front_ms = np.append(front_accuracy, accuracy[best]), np.append(front_ms, ms[best])
        return list(chosen.items())

    def result(self) -> dict[str, Any]:
        """Return the front, the candidates to verify on the device, and how good the latency model is."""
        found = self._search()
        candidates = self._to_verify(found)
        front = thinned(found.front, _MAX_FRONT)
        rows = self._figures([*front, *candidates, found.fastest])
        return {
            "latency_model": _quality(self._latency, self._precisions),
            "front": [self._drawn(row) for row in rows[: len(front)]],
            "candidates": [self._exported(row) for row in rows[len(front) : -1]],
            "fastest": rows[-1],
        }

    def _search(self) -> Found:
        spec, limits = self._spec, len(self._limits) + (self._floor is not None)
        return search(
            self._supernet.space,
            self._judge,
            limits,
            spec["population"],
            spec["generations"],
            spec["seed"],
            len(self._precisions),
        )

    def _judge(self, choices: list[Choice]) -> Figures:
        encodings = [encoding for encoding, _ in choices]
        precisions = [self._precisions[option] for _, option in choices]
        ms = np.empty(len(choices))
        for precision in set(precisions):
            rows = [row for row, name in enumerate(precisions) if name == precision]
            ms[rows] = self._latency.ms([encodings[row] for row in rows], precision)
        facts = [self._described(one, name) for one, name in zip(encodings, precisions, strict=True)]
        values = {name: np.array([fact.get(name, 0.0) for fact in facts], dtype=np.float64) for name in _LIMITS}
        values["latency_ms"] = ms
        accuracy = self._accuracies.predict(encodings, [self._targets[option] for _, option in choices])[0]
        excess = [values[name] / limit - 1.0 for name, limit in self._limits.items()]
        if self._floor is not None:
            excess.append(self._floor - accuracy)
        return Figures(accuracy, ms, np.stack(excess, axis=1) if excess else np.empty((len(ms), 0)))

    def _to_verify(self, found: Found) -> list[Choice]:
        """Return the choices to measure on the device, the most accurate first.

        Predicted accuracies only choose what to evaluate; evaluated ones decide, those from before the search included.
        The fastest of the front is always among them: the device may be slower than predicted.
        """
        if not found.front:
            return []
        count = self._spec["verified_candidates"]
        fitting = self._fitting(list(self._evaluated.all()))
        # Enough to find the best in each precision, and few enough to quantise.
        ranked = sorted({*thinned(found.front, 2 * count), *fitting}, key=lambda one: (-self._expected(one), one))
        ranked = sorted(ranked[: 2 * count], key=lambda one: (-self._accuracy(one), one))
        if self._floor is not None:
            ranked = [one for one in ranked if self._accuracy(one) >= self._floor]
        chosen = [one for one in ranked if one != found.front[0]][: count - 1]
        return sorted([*chosen, found.front[0]], key=lambda one: (-self._accuracy(one), one))

    def _fitting(self, encodings: Sequence[Encoding]) -> list[Choice]:
        """Return those, in each precision, that are predicted to keep the limits."""
        choices = [(one, option) for one in encodings for option in range(len(self._precisions))]
        if not choices:
            return []
        return [one for one, row in zip(choices, self._judge(choices).excess, strict=True) if (row <= 0).all()]

    def _expected(self, choice: Choice) -> float:
        return float(self._accuracies.predict([choice[0]], [self._targets[choice[1]]])[0][0])

    def _accuracy(self, choice: Choice) -> float:
        return self._evaluated.accuracy(choice[0], self._targets[choice[1]])

    def _figures(self, choices: Sequence[Choice]) -> list[dict[str, Any]]:
        found: dict[Choice, dict[str, Any]] = {}
        for option, precision in enumerate(self._precisions):
            some = list(dict.fromkeys(choice for choice in choices if choice[1] == option))
            if not some:
                continue
            encodings = [encoding for encoding, _ in some]
            times = self._latency.intervals(encodings, precision)
            predicted = self._accuracies.model.predict(encodings)[0]
            for row, choice in enumerate(some):
                figures = {
                    **self._described(choice[0], precision),
                    "predicted_accuracy": float(predicted[row]),
                    "accuracy": self._evaluated.known(choice[0], self._targets[option]),
                    "predicted_ms": float(times.median_ms[row]),
                    "predicted_low_ms": float(times.low_ms[row]),
                    "predicted_high_ms": float(times.high_ms[row]),
                }
                found[choice] = {**figures, "fits": self._fits(figures)}
        return [found[choice] for choice in choices]

    def _fits(self, figures: Mapping[str, Any]) -> bool:
        values = {**figures, "latency_ms": figures["predicted_ms"]}
        return all(values[name] <= limit for name, limit in self._limits.items())

    def _exported(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**self._drawn(row), **self._evaluated.exported(tuple(row["encoding"]), self._target(row))}

    def _drawn(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "drawing": drawing(self._supernet.space, tuple(row["encoding"]))}

    def _target(self, row: Mapping[str, Any]) -> Target:
        return self._targets[self._precisions.index(row["precision"])]


def _memory(supernet: Supernet, measurements: Sequence[Mapping[str, Any]]) -> MemoryLine:
    """Return how much memory subnets take on the device, from what it told of those that it measured."""
    told = [one for one in measurements if one.get("peak_memory_bytes")]
    counted = [described(supernet, tuple(one["encoding"]), Precision(one["precision"])) for one in told]
    return MemoryLine.fit([one["memory_bytes"] for one in counted], [one["peak_memory_bytes"] for one in told])


def _expected(supernet: Supernet, memory: MemoryLine, encoding: Encoding, precision: str) -> dict[str, Any]:
    """Return the subnet as `described` does, with the memory that it is expected to take on the device."""
    facts = described(supernet, encoding, Precision(precision))
    return {**facts, "memory_bytes": memory.expected(facts["memory_bytes"])}


def _parts(budget: int) -> list[int]:
    """Return a budget in rounds: each looks where those before it moved the front."""
    return [min(_ROUND, budget - begin) for begin in range(0, budget, _ROUND)]


def _quality(latency: TypeLatency, precisions: Sequence[str]) -> dict[str, Any]:
    qualities = {name: asdict(latency.quality(name)) for name in precisions}
    worst = max(qualities.values(), key=lambda one: one["held_out_relative_error"])
    return {**worst, "measured_count": worst["count"], "precisions": qualities}
