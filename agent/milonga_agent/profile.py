"""Time a model on this device. Runs in a process of its own: `python -m milonga_agent.profile SPEC.json`.

Neither numpy nor an engine is imported before the process is pinned: both make as many threads as they find CPUs.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Callable

from milonga.ending import die_with_parent

from milonga_agent.errors import AgentError
from milonga_agent.limits import Limits
from milonga_agent.sensors import Reading, fastest_cpus, read_sensors
from milonga_agent.usage import peak_memory_bytes

# Stop early once the median is known to within this share of itself; look whether it is after so many repeats.
_GOOD_ENOUGH = 0.005
_SETTLE_REPEATS = 50
# The range of five values holds the median in 94 % of all cases (1 - 2 / 2^5); that of fewer says too little.
_FEWEST = 5
# Warm-up may take this share of the budget. It ends once two medians of five repeats, one after the other, are not
# below the one before by more than the noise of such medians on a quiet device.
_WARM_UP_SHARE = 0.2
_WARM_UP_BLOCK, _WARM_UP_NOISE = 5, 0.01
# Below this share of its first frequency a CPU is throttled; turbo modes alone move it by a few per cent.
_THROTTLED = 0.9
# Quarters whose medians are less apart than this rank no subnet wrongly; work of others moves them as much.
_DRIFT = 0.03
# Sensors move in steps of 0.5 to 1 °C: this much above rest is as good as rest.
_NEAR_CELSIUS = 3.0
# A device that cools by less than this in so many looks has reached what it can reach.
_COOLING_CELSIUS, _COOLING_LOOKS = 0.5, 10
_COOLING_LOOK_SECONDS, _LOOK_SECONDS = 1.0, 0.5
# Governors look at a core every 10 ms or so (cpufreq's sampling_rate): after this, a busy one is as fast as it may be.
_AWAKE_SECONDS = 0.1
# Shapes with free dimensions are measured at one picture of this size.
_FALLBACK_PX = 32


@dataclass(frozen=True)
class Effort:
    """How long to measure each model. `budget_seconds` holds warm-up and a second attempt too, but not cooling."""

    warm_up_repeats: int = 5
    min_repeats: int = 20
    max_repeats: int = 300
    budget_seconds: float = 10.0
    # In all. A fan needs some seconds; a board without one would take minutes, which nobody waits for.
    cool_seconds: float = 30.0


@dataclass(frozen=True)
class Timing:
    """What was found, in milliseconds, and how it was taken. None where the device has no such sensor.

    `drift_ratio` is the last quarter's median over the first quarter's. `pinned_cpus` is empty where the platform pins
    nothing. The fields beyond the percentiles are those of the protocol's MeasurementResult.
    """

    p50: float
    p90: float
    p99: float
    mean: float
    count: int
    median_half_width_ms: float
    drift_ratio: float
    settled: bool
    drifting: bool
    throttled: bool
    attempts: int
    cooled_seconds: float
    pinned_cpus: tuple[int, ...]
    peak_memory_bytes: int
    temperature_begin_celsius: float | None
    temperature_max_celsius: float | None
    temperature_celsius: float | None
    frequency_begin_mhz: float | None
    frequency_min_mhz: float | None
    frequency_end_mhz: float | None


def _work(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@dataclass(frozen=True)
class Clock:
    """Time, and the ways to spend it: asleep or busy."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    work: Callable[[float], None] = _work


Look = Callable[[], Reading]


# Rules: what the figures say.


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median, from order statistics.

    It runs between ranks n/2 -+ 0.98 sqrt(n) (binomial, normal approximation; Le Boudec 2010, theorem 2.1).
    """
    count = len(ordered)
    reach = 0.98 * math.sqrt(count)
    low = max(0, math.floor(count / 2 - reach))
    high = min(count - 1, math.ceil(count / 2 + reach))
    return ordered[low], ordered[high]


def half_width(times: Sequence[float]) -> float:
    """Return half the width of the 95 % confidence interval of the median."""
    low, high = median_interval(sorted(times))
    return (high - low) / 2


def settled(times: Sequence[float]) -> bool:
    """Return whether the median is known well enough."""
    return len(times) >= _FEWEST and half_width(times) <= _GOOD_ENOUGH * median(times)


def warm(times: Sequence[float]) -> bool:
    """Return whether repeats no longer become faster."""
    if len(times) < 3 * _WARM_UP_BLOCK:
        return False
    ends = [len(times) - block * _WARM_UP_BLOCK for block in (2, 1, 0)]
    first, second, third = (median(times[end - _WARM_UP_BLOCK : end]) for end in ends)
    return second >= first * (1 - _WARM_UP_NOISE) and third >= second * (1 - _WARM_UP_NOISE)


def drift_ratio(times: Sequence[float]) -> float:
    first, last = _quarters(times)
    return median(last) / median(first) if median(first) else 1.0


def drifting(times: Sequence[float]) -> bool:
    """Return whether first and last quarter differ by more than noise: by 3 %, and no median is in both intervals."""
    first, last = _quarters(times)
    if len(first) < _FEWEST or abs(drift_ratio(times) - 1) <= _DRIFT:
        return False
    (low, high), (later_low, later_high) = median_interval(first), median_interval(last)
    return high < later_low or later_high < low


def _quarters(times: Sequence[float]) -> tuple[list[float], list[float]]:
    quarter = max(1, len(times) // 4)
    return sorted(times[:quarter]), sorted(times[-quarter:])


def throttled(readings: Sequence[Reading]) -> bool:
    """Return whether the machine held its CPUs back at any time since the first reading."""
    return any(
        each.limited or each.throttle_count > readings[0].throttle_count or each.slower_than(readings[0], _THROTTLED)
        for each in readings
    )


def cool(seen: Sequence[Reading], rest: Reading) -> bool:
    """Return whether the device is as at rest, or cools no more. What cannot be read is not waited for."""
    last = seen[-1]
    if last.celsius is not None and len(seen) > _COOLING_LOOKS:
        before = Reading(celsius=seen[-1 - _COOLING_LOOKS].celsius)
        if not before.hotter_than(last, _COOLING_CELSIUS):
            return True
    return not (last.limited or last.hotter_than(rest, _NEAR_CELSIUS) or last.slower_than(rest, _THROTTLED))


# Doing.


def cool_down(look: Look, rest: Reading, budget_seconds: float, clock: Clock) -> float:
    """Wait until the device is cool, or the budget is spent; return the seconds waited."""
    began, seen = clock.now(), [look()]
    waited = 0.0
    while waited < budget_seconds and not cool(seen, rest):
        clock.sleep(min(_COOLING_LOOK_SECONDS, budget_seconds - waited))
        # Only a busy core shows how fast it may be.
        clock.work(_AWAKE_SECONDS)
        seen.append(look())
        waited = clock.now() - began
    return waited


class Series:
    """Repeats of some runs, interleaved in random order so that heat and other work fall on all alike; milliseconds."""

    def __init__(
        self, runs: Sequence[Callable[[], object]], effort: Effort, look: Look, clock: Clock, seed: int = 0
    ) -> None:
        self.times: list[list[float]] = [[] for _ in runs]
        self.readings: list[Reading] = []
        self._runs, self._effort, self._look, self._clock = runs, effort, look, clock
        self._random = random.Random(seed)

    @property
    def troubled(self) -> bool:
        return throttled(self.readings) or any(drifting(times) for times in self.times)

    def warm_up(self) -> None:
        """Run until caches, allocators and clocks are as they will be."""
        for run in self._runs:
            times: list[float] = []
            end = self._clock.now() + _WARM_UP_SHARE * self._effort.budget_seconds
            while not (
                len(times) >= max(1, self._effort.warm_up_repeats) and (warm(times) or self._clock.now() >= end)
            ):
                times.append(self._timed(run))

    def go_on(self, deadline: float) -> None:
        """Repeat until all medians are known well enough, or time or repeats run out."""
        looked = self._clock.now()
        self.readings.append(self._look())
        while not self._done(deadline):
            order = list(range(len(self._runs)))
            self._random.shuffle(order)
            for index in order:
                self.times[index].append(self._timed(self._runs[index]))
            if self._clock.now() - looked >= _LOOK_SECONDS:
                looked = self._clock.now()
                self.readings.append(self._look())
        self.readings.append(self._look())

    def _done(self, deadline: float) -> bool:
        count, most = len(self.times[0]), max(1, self._effort.max_repeats)
        if count < min(most, max(1, self._effort.min_repeats)):
            return False
        late = self._clock.now() >= deadline
        return late or count >= most or (count % _SETTLE_REPEATS == 0 and all(map(settled, self.times)))

    def _timed(self, run: Callable[[], object]) -> float:
        began = self._clock.now()
        run()
        return (self._clock.now() - began) * 1e3

    def seconds_of(self, repeats: int) -> float:
        """Return how long this many repeats of all runs would take."""
        return repeats * sum(median(times) for times in self.times) / 1e3


@dataclass(frozen=True)
class Measured:
    series: Series
    attempts: int
    cooled_seconds: float


def measure(
    runs: Sequence[Callable[[], object]],
    effort: Effort,
    look: Look,
    clock: Clock = Clock(),
    rest_celsius: float | None = None,
) -> Measured:
    """Time the runs; once more, where the first attempt throttled or drifted and enough of the budget is left.

    An attempt in trouble is given up half-way, for a second one to have time. The second stands, whatever it shows.
    """
    budget_seconds = effort.budget_seconds * len(runs)
    cooled = cool_down(look, Reading(celsius=rest_celsius), effort.cool_seconds, clock)
    at_rest = look().celsius
    series, end = Series(runs, effort, look, clock), clock.now() + budget_seconds
    series.warm_up()
    for deadline in (end - budget_seconds / 2, end):
        series.go_on(deadline)
        left = end - clock.now()
        if series.troubled and left >= series.seconds_of(effort.warm_up_repeats + effort.min_repeats):
            rest = Reading(celsius=at_rest, frequency_mhz=series.readings[0].frequency_mhz)
            cooled += cool_down(look, rest, effort.cool_seconds - cooled, clock)
            again = Series(runs, replace(effort, budget_seconds=left / len(runs)), look, clock)
            end = clock.now() + left
            again.warm_up()
            again.go_on(end)
            return Measured(again, 2, cooled)
    return Measured(series, 1, cooled)


def describe(measured: Measured, cpus: tuple[int, ...], index: int = 0) -> Timing:
    """Return the figures of one of the runs."""
    times, readings = measured.series.times[index], measured.series.readings
    percent = quantiles(times if len(times) > 1 else times * 2, n=100, method="inclusive")
    heat = [each.celsius for each in readings]
    speed = [each.frequency_mhz for each in readings]
    return Timing(
        p50=percent[49],
        p90=percent[89],
        p99=percent[98],
        mean=sum(times) / len(times),
        count=len(times),
        median_half_width_ms=half_width(times),
        drift_ratio=drift_ratio(times),
        settled=settled(times),
        drifting=drifting(times),
        throttled=throttled(readings),
        attempts=measured.attempts,
        cooled_seconds=measured.cooled_seconds,
        pinned_cpus=cpus,
        peak_memory_bytes=peak_memory_bytes(),
        temperature_begin_celsius=heat[0],
        temperature_max_celsius=max((each for each in heat if each is not None), default=None),
        temperature_celsius=heat[-1],
        frequency_begin_mhz=speed[0],
        frequency_min_mhz=min((each for each in speed if each is not None), default=None),
        frequency_end_mhz=speed[-1],
    )


@contextmanager
def pinned(threads: int, root: Path = Path("/")) -> Iterator[tuple[int, ...]]:
    """Keep this thread, and all that it starts, on as many CPUs; yield them, or none where the platform cannot."""
    cpus: tuple[int, ...] = ()
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        cpus = fastest_cpus(threads, allowed, root)
        try:
            os.sched_setaffinity(0, cpus)
        except OSError:  # Some sandboxes forbid it.
            cpus = ()
    try:
        yield cpus
    finally:
        if cpus:
            os.sched_setaffinity(0, allowed)


def profile(
    model: Path,
    engine: str,
    threads: int,
    effort: Effort,
    rest_celsius: float | None = None,
    root: Path = Path("/"),
) -> Timing:
    """Return how long one picture takes in one engine. Raises AgentError where it cannot run.

    `rest_celsius` is how warm the device is when it has not measured for a while.
    """
    with pinned(threads, root) as cpus:
        import numpy as np

        from milonga_agent.runtimes import load

        runtime = load(engine, model, threads)
        shape = [size if isinstance(size, int) and size > 0 else _FALLBACK_PX for size in runtime.input_shape]
        picture = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
        look = partial(read_sensors, cpus, root)
        return describe(measure([lambda: runtime.run(picture)], effort, look, Clock(), rest_celsius), cpus)


def main() -> int:
    """Measure what the JSON file says and print the figures, or an error, as one line of JSON."""
    die_with_parent()
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Limits(spec["threads"], (), spec["memory_bytes"]).apply_memory()
    try:
        effort = Effort(**spec["effort"])
        timing = profile(Path(spec["model"]), spec["engine"], spec["threads"], effort, spec["rest_celsius"])
    except (AgentError, OSError, ValueError, MemoryError) as error:
        print(json.dumps({"error": str(error) or repr(error)}))
        return 1
    except Exception as error:  # Engines raise what they like while running.
        print(json.dumps({"error": f"{spec['engine']} failed: {error}"}))
        return 1
    print(json.dumps(asdict(timing)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
