"""Which build is used, and whether a new version is better than the one in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

# Below this, chance alone seldom explains a difference: Fisher's customary 5 %.
SIGNIFICANCE = 0.05
# A group of pictures may lose this much accuracy and no more, in percentage points.
MAX_GROUP_LOSS_POINTS = 1.0
# Forgives the rounding of shares; a whole picture is never as little as this.
_ROUNDING_POINTS = 1e-9


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

    Give only VERIFIED builds: each has passed its accuracy gate, so none has lost more than the project allows, and the
    device's own measurement decides. The lowest measured_ms wins; of equally fast ones the more accurate, then the
    smaller, then the first by name. A build that was not measured is not used, and no engine is preferred by its name.
    """
    fitting = [
        (build.measured_ms, -build.accuracy, build.size_bytes, build.name, build)
        for build in builds
        if build.measured_ms is not None and (latency_ms is None or build.measured_ms <= latency_ms)
    ]
    return min(fitting, key=lambda entry: entry[:4])[-1] if fitting else None


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


def judge(
    groups: Sequence[Group], gained: int, lost: int, champion: str = "the old version", challenger: str = "the new one"
) -> Verdict:
    """Return whether the challenger is better than the champion, in figures and in words.

    `gained` pictures only the challenger gets right, `lost` only the champion. The challenger is better where
    1. no group loses more than MAX_GROUP_LOSS_POINTS (what was learnt must not be forgotten), and
    2. it gets more right on the whole than chance explains, or more right in the group "new", the pictures that it was
       trained for.
    Chance is the exact two-sided McNemar test: if the versions were equally good, the pictures on which they differ
    would fall to either like the sides of a coin (Dietterich 1998, "Approximate statistical tests", section 3.1).
    """
    p_value = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    words = (
        f"{challenger} is right on {gained} pictures that {champion} gets wrong, and wrong on {lost} that it gets right"
        f" (p = {p_value:.2g})"
    )
    if worse := [group for group in groups if group.gain_points < -MAX_GROUP_LOSS_POINTS - _ROUNDING_POINTS]:
        named = " and ".join(f"{-group.gain_points:.1f} points on {group.name} pictures" for group in worse)
        allowed = f"{MAX_GROUP_LOSS_POINTS:g} allowed"
        return Verdict(False, p_value, f"not better: {challenger} loses {named}, {allowed}; {words}")
    if gained > lost and p_value <= SIGNIFICANCE:
        return Verdict(True, p_value, f"better: {words}")
    for group in groups:
        if group.name == "new" and group.challenger_right > group.champion_right:
            return Verdict(
                True, p_value, f"better: {challenger} gains {group.gain_points:.1f} points on new pictures; {words}"
            )
    return Verdict(False, p_value, f"not clearly better: {words}")
