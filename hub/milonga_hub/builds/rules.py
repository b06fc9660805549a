"""Which build is used, and whether a new version is better than the one in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Not scipy.stats, which has the whole test: to import it took a quarter of the hub's start.
from scipy.special import betainc

# Below this, chance alone seldom explains a difference: Fisher's customary 5 %.
SIGNIFICANCE = 0.05
# A group of pictures may lose this much accuracy, in percentage points; more only where chance explains it ...
MAX_GROUP_LOSS_POINTS = 1.0
# ... and never more than this: a few pictures cannot tell a loss from chance, and must not excuse any loss.
MAX_UNCLEAR_LOSS_POINTS = 5.0


@dataclass(frozen=True)
class BuildFigures:
    """What the choice among builds looks at. `measured_ms` is None where the device could not run it.

    `model_bytes` are the files that the engine loads, `size_bytes` all that is sent.
    """

    name: str
    engine: str
    precision: str
    accuracy: float
    measured_ms: float | None
    model_bytes: int
    size_bytes: int


def choose_build(
    builds: Sequence[BuildFigures], latency_ms: float | None, model_bytes: int | None = None
) -> BuildFigures | None:
    """Return the build that a device type gets, or None where none keeps the limits.

    Give only VERIFIED builds: each has passed its accuracy gate, so none has lost more than the project allows, and the
    device's own measurement decides. The lowest measured_ms wins; of equally fast ones the more accurate, then the
    smaller, then the first by name. A build that was not measured is not used, and no engine is preferred by its name.
    """
    fitting = [
        (build.measured_ms, -build.accuracy, build.size_bytes, build.name, build)
        for build in builds
        if build.measured_ms is not None
        and (latency_ms is None or build.measured_ms <= latency_ms)
        and (model_bytes is None or build.model_bytes <= model_bytes)
    ]
    return min(fitting, key=lambda entry: entry[:4])[-1] if fitting else None


def chance_of_heads(heads: int, tosses: int) -> float:
    """Return the probability that a fair coin falls heads at least so often (Abramowitz and Stegun 26.5.24)."""
    return float(betainc(heads, tosses - heads + 1, 0.5)) if heads else 1.0


@dataclass(frozen=True)
class Group:
    """Validation pictures of one kind, "old" or "new", with the accuracy of both versions on them.

    `gained` pictures the challenger answers better, `lost` the champion: where a picture has one answer, right or wrong;
    where objects are detected, by how many are found in their places.
    """

    name: str
    count: int
    champion_accuracy: float
    challenger_accuracy: float
    gained: int
    lost: int

    @property
    def loss_points(self) -> float:
        """Accuracy that the challenger loses, in percentage points; negative where it gains."""
        return 100.0 * (self.champion_accuracy - self.challenger_accuracy)

    @property
    def forgets(self) -> bool:
        """Whether the challenger loses more here than is allowed and than chance explains (one-sided, exact)."""
        # Accuracies are shares, so 1e-9 only forgives the rounding of the subtraction.
        if self.loss_points <= MAX_GROUP_LOSS_POINTS + 1e-9:
            return False
        if not self.gained + self.lost:
            return True
        chance = chance_of_heads(self.lost, self.gained + self.lost)
        return chance <= SIGNIFICANCE or self.loss_points > MAX_UNCLEAR_LOSS_POINTS


@dataclass(frozen=True)
class Verdict:
    better: bool
    p_value: float
    reason: str


def judge(
    groups: Sequence[Group],
    champion: str = "the old version",
    challenger: str = "the new one",
    measure: str = "accuracy",
) -> Verdict:
    """Return whether the challenger is better than the champion, in figures and in words.

    It is better where it answers more pictures better than chance explains, and forgets no group (see Group.forgets).
    Chance is the exact two-sided McNemar test: if the versions were equally good, the pictures on which they differ
    would fall to either like the sides of a coin (Dietterich 1998, "Approximate statistical tests", section 3.1).
    """
    gained, lost = sum(group.gained for group in groups), sum(group.lost for group in groups)
    # A fair coin is symmetric, so both sides together are twice one of them.
    p_value = min(1.0, 2.0 * chance_of_heads(max(gained, lost), gained + lost))
    words = (
        f"{challenger} answers {gained} pictures better than {champion}, and {lost} worse (p = {p_value:.2g}); {measure}"
        f" {_mean(groups, 'champion_accuracy'):.1%} to {_mean(groups, 'challenger_accuracy'):.1%}"
    )
    if worse := [group for group in groups if group.forgets]:
        named = " and ".join(f"{group.loss_points:.1f} points on {group.name} pictures" for group in worse)
        allowed = f"{MAX_GROUP_LOSS_POINTS:g} allowed"
        return Verdict(False, p_value, f"not better: {challenger} loses {named}, {allowed}; {words}")
    # Where one picture holds many objects, more pictures may be answered better and the whole still be worse.
    lower = _mean(groups, "challenger_accuracy") < _mean(groups, "champion_accuracy") - 1e-9
    if gained > lost and p_value <= SIGNIFICANCE and not lower:
        return Verdict(True, p_value, f"better: {words}")
    return Verdict(False, p_value, f"not clearly better: {words}")


def _mean(groups: Sequence[Group], field: str) -> float:
    """Return an accuracy over all groups, weighted by their pictures."""
    return float(sum(getattr(one, field) * one.count for one in groups) / max(1, sum(one.count for one in groups)))
