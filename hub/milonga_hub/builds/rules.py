"""Which build is used, and whether a new one is better than the one in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

# Below this, chance alone seldom explains a difference: Fisher's customary 5 %.
SIGNIFICANCE = 0.05
# A group of pictures may lose this much accuracy and no more, in percentage points.
MAX_GROUP_LOSS_POINTS = 1.0


@dataclass(frozen=True)
class BuildFigures:
    """What the choice among builds looks at. `measured_ms` is None where the device could not run it."""

    name: str
    engine: str
    precision: str
    accuracy: float
    measured_ms: float | None
    size_bytes: int


def choose_build(builds: Sequence[BuildFigures], latency_ms: float | None) -> BuildFigures | None:
    """Return the build that a device type gets, or None where none keeps the limit.

    All have passed their accuracy gate, so the device's own measurement decides: the fastest one wins, then the more
    accurate, then the smaller. A build that was not measured is not used.
    """
    fitting = [
        build
        for build in builds
        if build.measured_ms is not None and (latency_ms is None or build.measured_ms <= latency_ms)
    ]
    return min(fitting, key=lambda build: (build.measured_ms, -build.accuracy, build.size_bytes), default=None)


@dataclass(frozen=True)
class Group:
    """Validation pictures of one kind, "old" or "new", and how many of them each version gets right."""

    name: str
    count: int
    champion_right: int
    challenger_right: int

    @property
    def gain_points(self) -> float:
        return 100.0 * (self.challenger_right - self.champion_right) / max(1, self.count)


@dataclass(frozen=True)
class Verdict:
    better: bool
    p_value: float
    reason: str


def judge(groups: Sequence[Group], gained: int, lost: int) -> Verdict:
    """Return whether the challenger is better than the champion.

    `gained` pictures only the challenger gets right, `lost` only the champion. It is better when it gets more right on
    the whole, by more than chance explains (exact McNemar test: under chance, gained is binomial among those that
    differ; Dietterich 1998, section 3.1), and no group loses more than MAX_GROUP_LOSS_POINTS.
    """
    p_value = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    words = f"right on {gained} pictures that the old version gets wrong, wrong on {lost} that it gets right"
    words += f" (p = {p_value:.2g})"
    worse = [group for group in groups if group.gain_points < -MAX_GROUP_LOSS_POINTS]
    if worse:
        named = ", ".join(f"{-group.gain_points:.1f} points on {group.name} pictures" for group in worse)
        return Verdict(False, p_value, f"loses {named}; {words}")
    if gained <= lost or p_value > SIGNIFICANCE:
        return Verdict(False, p_value, f"not clearly better: {words}")
    return Verdict(True, p_value, words)
