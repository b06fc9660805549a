"""Choose which pictures are worth a label: a few each day, spread over it, each for a reason."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from milonga_agent.runtimes.base import Floats

_DAY_SECONDS = 86_400.0
# Whoever switches sampling on sees a first picture soon; the limit of the day holds all the same.
_FIRST_SECONDS = 10.0
# Pictures after which it is known what is usual here.
_WARM_UP = 30
# What is usual is that of the last thousand pictures: a camera may be moved.
_MEMORY = 1000
# Differences of less are noise of the sensor: two levels of 255.
_NOISE = (2.0 / 255.0) ** 2


class Reason(Enum):
    """Why a picture was chosen."""

    LEAST_CONFIDENT = "LEAST_CONFIDENT"
    NOVEL = "NOVEL"
    RANDOM = "RANDOM"


@dataclass(frozen=True)
class Policy:
    """What the project allows; the shares are weights."""

    project: str
    least_confident: float
    novel: float
    random: float
    pictures_per_day: int
    bytes_per_day: int
    max_side_px: int

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Policy:
        return cls(**{name: told[name] for name in cls.__dataclass_fields__})

    def told(self) -> dict[str, Any]:
        """Return what `of` reads."""
        return asdict(self)

    @property
    def weights(self) -> dict[Reason, float]:
        return {
            Reason.LEAST_CONFIDENT: self.least_confident,
            Reason.NOVEL: self.novel,
            Reason.RANDOM: self.random,
        }

    @property
    def slot_seconds(self) -> float:
        """Return the time of which one picture is chosen."""
        return _DAY_SECONDS / self.pictures_per_day


@dataclass(frozen=True)
class Box:
    """One predicted object: centre, width and height from 0 to 1."""

    label: str
    x: float
    y: float
    width: float
    height: float
    score: float


@dataclass(frozen=True)
class Candidate:
    """A picture as it was asked about, and what was answered."""

    data: bytes
    predicted: str
    confidence: float
    novelty: float
    taken_at: float
    boxes: tuple[Box, ...] = field(default=())


class Novelty:
    """How unlike the pictures of late one is: the root mean square of its deviations, each in standard deviations."""

    def __init__(self) -> None:
        self._seen = 0
        self._mean: Floats = np.zeros(0, dtype=np.float32)
        self._variance: Floats = np.zeros(0, dtype=np.float32)

    def of(self, look: Floats) -> float:
        """Return the distance of a picture (n,) from those before, 0 while there are few; then it is one of them."""
        if self._mean.shape != look.shape:
            self._seen, self._mean, self._variance = 0, look.copy(), np.zeros_like(look)
        away = look - self._mean
        distance = float(np.sqrt(np.mean(away**2 / (self._variance + np.float32(_NOISE)))))
        known = self._seen >= _WARM_UP
        self._seen += 1
        # Welford's update, with a weight that stops shrinking: old pictures are forgotten.
        weight = np.float32(1.0 / min(self._seen, _MEMORY))
        self._mean = self._mean + weight * away
        self._variance = (1 - weight) * (self._variance + weight * away**2)
        return distance if known else 0.0


class Chooser:
    """Divides time into slots, gives each a reason in proportion to the weights, and keeps the best picture of each."""

    def __init__(self, policy: Policy, now: float, source: random.Random) -> None:
        self._policy = policy
        self._random = source
        self._given: Counter[Reason] = Counter()
        self._offered = 0
        self._best: Candidate | None = None
        self.ends_at = now + min(policy.slot_seconds, _FIRST_SECONDS)
        self._reason = self._next_reason()

    def offer(self, candidate: Candidate) -> None:
        """Keep the picture if it is the best of its slot so far."""
        self._offered += 1
        if self._best is None or self._beats(candidate, self._best):
            self._best = candidate

    def take(self, now: float) -> tuple[Reason, Candidate] | None:
        """Return the choice of a slot that has ended, and begin the next one; None where it has not, or saw nothing."""
        if now < self.ends_at or self._best is None:
            return None
        chosen = (self._reason, self._best)
        self._given[self._reason] += 1
        self._offered, self._best = 0, None
        self.ends_at = now + self._policy.slot_seconds
        self._reason = self._next_reason()
        return chosen

    def _beats(self, one: Candidate, other: Candidate) -> bool:
        if self._reason is Reason.LEAST_CONFIDENT:
            return one.confidence < other.confidence
        if self._reason is Reason.NOVEL:
            return one.novelty > other.novelty
        # Each of n has a chance of 1 in n (reservoir sampling, Vitter 1985).
        return self._random.random() * self._offered < 1.0

    def _next_reason(self) -> Reason:
        """Return the reason that lags most behind its share."""
        weights = self._policy.weights
        total, slots = sum(weights.values()), sum(self._given.values()) + 1
        return max(weights, key=lambda reason: weights[reason] / total * slots - self._given[reason])
