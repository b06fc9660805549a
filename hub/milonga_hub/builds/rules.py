"""Which build is used and why, and whether a new version is better than the one in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

# Not scipy.stats, which has the whole test: to import it took a quarter of the hub's start.
from milonga_compiler.engines import ENGINES
from numpy.typing import NDArray
from scipy.special import betainc, gammaln

from milonga_hub.builds.values import BuildOverride, BuildState, BuildTuning, Gate, TuningSite
from milonga_hub.errors import InvalidInput
from milonga_hub.ties import TIE

if TYPE_CHECKING:
    from milonga_hub.builds.models import Build

# Below this, chance alone seldom explains a difference: Fisher's customary 5 %.
SIGNIFICANCE = 0.05
# A group of pictures may lose this much accuracy, in percentage points; more only where chance explains it ...
MAX_GROUP_LOSS_POINTS = 1.0
# ... and never more than this: a few pictures cannot tell a loss from chance, and must not excuse any loss.
MAX_UNCLEAR_LOSS_POINTS = 5.0
# Of the pictures of one class, what it may lose more than chance explains; a project may say otherwise.
MAX_CLASS_LOSS_POINTS = 5.0

# From here on a percentage is hard to read.
_MANY_TIMES = 2.0
_FASTEST = "the fastest that passes its gates"
_ALL_THE_SAME = "chosen all the same; its figures say: "
# A week: jobs take turns, and a tuning holds up the others.
MAX_TUNING_MINUTES = 7 * 1440.0


@dataclass(frozen=True)
class Allowed:
    """What a device type's builds are held to on its devices; None does not bind.

    `memory_bytes` is the most that the process which runs a build may take, engine included.
    """

    latency_ms: float | None = None
    model_bytes: int | None = None
    memory_bytes: int | None = None


# Nothing binds.
FREE = Allowed()


@dataclass(frozen=True)
class BuildFigures:
    """What the choice among builds looks at. `measured_ms` is None where the device could not run it.

    `model_bytes` are the files that the engine loads, `size_bytes` all that is sent. `objection` is why no device may have
    it, `measuring_error` why it was not measured. `memory_bytes` is None where the device did not tell.
    """

    name: str
    engine: str
    precision: str
    accuracy: float
    measured_ms: float | None
    model_bytes: int
    size_bytes: int
    objection: str = ""
    measuring_error: str = ""
    memory_bytes: int | None = None

    @property
    def target(self) -> str:
        return f"{self.engine}/{self.precision}"


def check_tuning(engine: str, tuning: BuildTuning | None) -> None:
    """Raise InvalidInput where this cannot be asked for."""
    if tuning is None:
        return
    if not ENGINES[engine].tuned:
        able = " and ".join(name for name, one in ENGINES.items() if one.tuned)
        raise InvalidInput(f"{engine} brings its kernels with it, and is not tuned; only {able} is")
    if not 0 < tuning.minutes <= MAX_TUNING_MINUTES:
        raise InvalidInput(
            f"a tuning takes more than 0 and at most {MAX_TUNING_MINUTES:g} minutes, not {tuning.minutes:g}"
        )
    if tuning.wanted_device and tuning.site is TuningSite.HUB:
        raise InvalidInput(f"it is tuned on the hub or on {tuning.wanted_device}, not on both")


def asked_tuning(minutes: float, site: TuningSite | None, device: str) -> BuildTuning | None:
    """Return the tuning that a request asks for, on devices unless it says otherwise; None for none."""
    if not minutes and not device and site is None:
        return None
    return BuildTuning(site=site or TuningSite.DEVICE, minutes=minutes, wanted_device=device)


def objection(state: BuildState, reason: str, override: BuildOverride | None, bundle: str) -> str:
    """Return why no device may have a build, or "": a VERIFIED one may go out, any other only where a person allowed it."""
    if not bundle:
        return f"it is {state.lower()}, and there is nothing to send: {reason or 'it was never made'}"
    if state is BuildState.VERIFIED or override is not None:
        return ""
    return f"it is {state.lower()}, not verified: {reason or 'it was never run'}"


def objection_to(build: Build) -> str:
    return objection(build.state, build.reason, build.override, build.bundle)


def rejected(build: Build) -> bool:
    """Return whether measuring a build would be a waste: it may not be used, and nobody waits for its figures."""
    return not build.bundle or (build.state is BuildState.REJECTED and build.override is None)


def figures(build: Build) -> BuildFigures:
    return BuildFigures(
        name=build.name,
        engine=build.engine,
        precision=build.precision,
        accuracy=build.accuracy if build.accuracy is not None else 0.0,
        measured_ms=build.measured_ms,
        model_bytes=build.model_bytes,
        size_bytes=build.size_bytes,
        objection=objection_to(build),
        measuring_error=build.measuring_error,
        memory_bytes=build.measured_memory_bytes,
    )


def choose_build(builds: Sequence[BuildFigures], allowed: Allowed = FREE) -> BuildFigures | None:
    """Return the build that a device type gets, or None where none keeps the limits.

    Each without an objection has passed its accuracy gate, so none has lost more than the project allows, and the
    device's own measurement decides. The lowest measured_ms wins; of equally fast ones, which are no more than a tie apart, the more
    accurate, then the smaller, then the faster, then the first by name. A build that was not measured is not used, and no engine is
    preferred by its name.
    """
    fitting = [
        (-build.accuracy, build.size_bytes, build.measured_ms, build.name, build)
        for build in builds
        if not build.objection
        and build.measured_ms is not None
        and _keeps(build.measured_ms, allowed.latency_ms)
        and _keeps(build.model_bytes, allowed.model_bytes)
        and _keeps(build.memory_bytes or 0, allowed.memory_bytes)
    ]
    least = min((ms for _, _, ms, _, _ in fitting), default=0.0)
    equals = (entry for entry in fitting if entry[2] <= least * (1 + TIE))
    return min(equals, key=lambda entry: entry[:4])[-1] if fitting else None


def chance_of_heads(heads: int, tosses: int) -> float:
    """Return the probability that a fair coin falls heads at least so often (Abramowitz and Stegun 26.5.24)."""
    return float(betainc(heads, tosses - heads + 1, 0.5)) if heads else 1.0


def chance_of_so_many(marked: int, drawn: int, all_marked: int, count: int) -> float:
    """Return the probability that at least so many of the drawn are marked ones, drawn of `count` of which `all_marked` are.

    Fisher's exact test, one-sided: the tail of the hypergeometric distribution.
    """
    fewest = max(marked, drawn + all_marked - count)
    found = np.arange(fewest, min(drawn, all_marked) + 1, dtype=np.float64)
    logarithms = (
        _log_choices(all_marked, found)
        + _log_choices(count - all_marked, drawn - found)
        - _log_choices(count, np.float64(drawn))
    )
    return min(1.0, float(np.exp(logarithms).sum()))


def _log_choices(of: int, some: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(gammaln(of + 1.0) - gammaln(some + 1.0) - gammaln(of - some + 1.0))


def _keeps(found: float, limit: float | None) -> bool:
    return limit is None or found <= limit


def decisions(builds: Sequence[BuildFigures], chosen: BuildFigures | None, allowed: Allowed = FREE) -> dict[str, str]:
    """Return for each build, by name, why it is the one of its device type or why it is not."""
    return {build.name: _decision(build, chosen, allowed) for build in builds}


def _decision(build: BuildFigures, chosen: BuildFigures | None, allowed: Allowed) -> str:
    if build.objection:
        return f"not used: {build.objection}"
    if build.measured_ms is None:
        return f"not used: the device did not run it: {build.measuring_error or 'it was not measured'}"
    if not _keeps(build.measured_ms, allowed.latency_ms):
        return f"not used: {build.measured_ms:.3g} ms, {allowed.latency_ms:g} ms allowed"
    if not _keeps(build.model_bytes, allowed.model_bytes):
        return f"not used: its model has {build.model_bytes} bytes, {allowed.model_bytes} allowed"
    if not _keeps(build.memory_bytes or 0, allowed.memory_bytes):
        return f"not used: it took {build.memory_bytes} bytes of memory, {allowed.memory_bytes} allowed"
    if chosen is None or build == chosen:
        return _FASTEST
    if chosen.measured_ms and build.measured_ms > chosen.measured_ms * (1 + TIE):
        times = build.measured_ms / chosen.measured_ms
        many = f"{times:.1f}" if times < 10 else f"{times:,.0f}"
        slower = f"{times - 1:.1%} slower than" if times < _MANY_TIMES else f"{many} times as slow as"
        return f"{slower} {chosen.target}"
    return f"as fast as {chosen.target}, which is {'more accurate' if chosen.accuracy > build.accuracy else 'smaller'}"


def of_choice(decision: str, chosen: bool) -> str:
    """Return why a build is or is not used, where it was chosen against what its figures say now."""
    words = decision.removeprefix(_ALL_THE_SAME)
    return f"{_ALL_THE_SAME}{words}" if chosen and words not in ("", _FASTEST) else words


def gates_of(build: Build, allowed: Allowed) -> list[Gate]:
    """Return what a build is held to, those of its proof as they were, with those of its use as it is measured now.

    There is none for memory where the device did not tell what it took.
    """
    proof = [gate for gate in build.gates if gate.name not in ("latency", "size", "memory")]
    use = [
        _gate("latency", "ms", build.measured_ms, allowed.latency_ms),
        _gate("size", "bytes", build.model_bytes if build.bundle else None, allowed.model_bytes),
    ]
    if build.measured_memory_bytes is not None:
        use.append(_gate("memory", "bytes", build.measured_memory_bytes, allowed.memory_bytes))
    return [*proof, *use]


def said_on(device: str, error: str) -> str:
    """Return what a device said, with whose words they are: "not installed here" is not about the hub."""
    return error if not device or device in error else f"{device}: {error}"


def disagreement(agreement: float) -> float:
    """Return how many in a hundred answers are not the network's; the rounding is that of the subtraction."""
    return round(100.0 * (1.0 - agreement), 6)


def proved(gates: Sequence[Gate], max_abs_error: float | None, agreement: float | None) -> list[Gate]:
    """Return the gates of a build that devices make for themselves, with what one of them found."""
    found = {
        "parity": max_abs_error,
        "disagreement": None if agreement is None else disagreement(agreement),
    }
    return [
        _gate(each.name, each.unit, found[each.name], each.allowed) if each.name in found else each for each in gates
    ]


def _gate(name: str, unit: str, found: float | None, allowed: float | None) -> Gate:
    return Gate(name=name, unit=unit, found=found, allowed=allowed, passed=found is not None and _keeps(found, allowed))


@dataclass(frozen=True)
class Group:
    """Validation pictures of one kind, "old" or "new" or of one class, with the accuracy of both versions on them.

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


def forgotten(classes: Sequence[Group], max_loss_points: float) -> list[Group]:
    """Return the classes on whose pictures the challenger loses more than is allowed and than chance explains.

    Chance explains what a fair coin would: that of the pictures on which the versions differ so many are lost. It also explains that pictures
    are lost here and there: what one class loses more often than all others (chance_of_so_many) is forgotten, where five pictures of a class are
    too few for a coin. The more classes there are, the less often may chance look like either for one of them (Bonferroni's correction).
    """
    count, lost = sum(one.count for one in classes), sum(one.lost for one in classes)
    seldom = SIGNIFICANCE / (2 * max(1, len(classes)))
    return [
        one
        for one in classes
        if one.loss_points > max_loss_points + 1e-9
        and (
            chance_of_heads(one.lost, one.gained + one.lost) <= seldom
            or chance_of_so_many(one.lost, one.count, lost, count) <= seldom
        )
    ]


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
    classes: Sequence[Group] = (),
    max_class_loss_points: float = MAX_CLASS_LOSS_POINTS,
    gains: NDArray[np.float64] | None = None,
) -> Verdict:
    """Return whether the challenger is better than the champion, in figures and in words.

    It is better where it is so by more than chance explains, and forgets no group (see Group.forgets) and no
    class (see forgotten); `classes` are the same pictures again, by what they show.
    Where a picture has one answer, chance is the exact two-sided McNemar test: if the versions were equally good, the
    pictures on which they differ would fall to either like the sides of a coin (Dietterich 1998, "Approximate
    statistical tests", section 3.1). Where accuracy is no mean over pictures, `gains` are what the challenger gains on pictures
    drawn again and again.
    """
    gained, lost = sum(group.gained for group in groups), sum(group.lost for group in groups)
    told = f"{challenger} answers {gained} pictures better than {champion}, and {lost} worse"
    accuracies = f"{measure} {_mean(groups, 'champion_accuracy'):.1%} to {_mean(groups, 'challenger_accuracy'):.1%}"
    if gains is None:
        # A fair coin is symmetric, so both sides together are twice one of them.
        p_value = min(1.0, 2.0 * chance_of_heads(max(gained, lost), gained + lost))
        better, words = gained > lost, f"{told} (p = {p_value:.2g}); {accuracies}"
    else:
        p_value = _chance_of_none(gains)
        low, high = np.quantile(gains, (0.025, 0.975)) * 100.0
        better = float(np.mean(gains)) > 0.0
        interval = f"{low:+.1f} to {high:+.1f} points in 95 of 100 draws, p = {p_value:.2g}"
        words = f"{told}; {accuracies} ({interval})"
    if worse := [group for group in groups if group.forgets]:
        named = " and ".join(f"{group.loss_points:.1f} points on {group.name} pictures" for group in worse)
        allowed = f"{MAX_GROUP_LOSS_POINTS:g} allowed"
        return Verdict(False, p_value, f"not better: {challenger} loses {named}, {allowed}; {words}")
    if lost_classes := forgotten(classes, max_class_loss_points):
        named = ", ".join(f"{group.loss_points:.1f} points on {group.name}" for group in lost_classes)
        allowed = f"{max_class_loss_points:g} allowed for a class"
        return Verdict(False, p_value, f"not better: {challenger} loses {named}, {allowed}; {words}")
    if better and p_value <= SIGNIFICANCE:
        return Verdict(True, p_value, f"better: {words}")
    return Verdict(False, p_value, f"not clearly better: {words}")


def _chance_of_none(gains: NDArray[np.float64]) -> float:
    """Return how often, of both sides, pictures drawn again say the opposite: never 0, for there could be one draw more."""
    opposite = min(int((gains <= 0.0).sum()), int((gains >= 0.0).sum()))
    return min(1.0, 2.0 * (opposite + 1) / (len(gains) + 1))


def _mean(groups: Sequence[Group], field: str) -> float:
    """Return an accuracy over all groups, weighted by their pictures."""
    return float(sum(getattr(one, field) * one.count for one in groups) / max(1, sum(one.count for one in groups)))
