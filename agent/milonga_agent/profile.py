"""Time a model on this device. Runs in a process of its own: `python -m milonga_agent.profile SPEC.json`."""

from __future__ import annotations

import json
import math
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

from milonga_agent.errors import AgentError
from milonga_agent.inventory import temperature_celsius
from milonga_agent.limits import Limits, die_with_parent
from milonga_agent.runtimes import load

# Stop early once the median is known to within this share of itself.
_GOOD_ENOUGH = 0.005
# Shapes with free dimensions are measured at one picture of this size.
_FALLBACK_PX = 32


@dataclass(frozen=True)
class Effort:
    """How long to measure each model."""

    warm_up_repeats: int = 5
    min_repeats: int = 20
    max_repeats: int = 300
    budget_seconds: float = 10.0


@dataclass(frozen=True)
class Timing:
    """What was found, in milliseconds. `drift_ratio` is the last quarter's median over the first quarter's."""

    p50: float
    p90: float
    p99: float
    mean: float
    count: int
    median_half_width_ms: float
    drift_ratio: float
    peak_memory_bytes: int
    temperature_celsius: float | None


def measure(runs: Sequence[Callable[[], object]], effort: Effort, seed: int = 0) -> list[list[float]]:
    """Time the runs, interleaved in random order so that heat and other work fall on all alike; return milliseconds."""
    for run in runs:
        for _ in range(effort.warm_up_repeats):
            run()
    times: list[list[float]] = [[] for _ in runs]
    source = random.Random(seed)
    deadline = time.monotonic() + effort.budget_seconds * len(runs)
    for repeat in range(effort.max_repeats):
        order = list(range(len(runs)))
        source.shuffle(order)
        for index in order:
            began = time.perf_counter()
            runs[index]()
            times[index].append((time.perf_counter() - began) * 1e3)
        if repeat + 1 >= effort.min_repeats and (time.monotonic() > deadline or _settled(times, repeat)):
            break
    return times


def _settled(times: list[list[float]], repeat: int) -> bool:
    """Look now and then whether all medians are known well enough."""
    return repeat % 50 == 49 and all(
        half_width(sorted(values)) <= _GOOD_ENOUGH * float(np.median(values)) for values in times
    )


def half_width(ordered: Sequence[float]) -> float:
    """Return half the width of the 95 % confidence interval of the median, from order statistics.

    The interval runs between ranks n/2 -+ 0.98 sqrt(n) (binomial, normal approximation; Le Boudec 2010, theorem 2.1).
    """
    count = len(ordered)
    reach = 0.98 * math.sqrt(count)
    low = max(0, math.floor(count / 2 - reach))
    high = min(count - 1, math.ceil(count / 2 + reach))
    return (ordered[high] - ordered[low]) / 2


def describe(times: Sequence[float]) -> Timing:
    """Return the figures of repeats in the order in which they were taken."""
    p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    quarter = max(1, len(times) // 4)
    first, last = float(np.median(times[:quarter])), float(np.median(times[-quarter:]))
    return Timing(
        p50=p50,
        p90=p90,
        p99=p99,
        mean=float(np.mean(times)),
        count=len(times),
        median_half_width_ms=half_width(sorted(times)),
        drift_ratio=last / first if first else 1.0,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        temperature_celsius=temperature_celsius(),
    )


def profile(model: Path, engine: str, threads: int, effort: Effort) -> Timing:
    """Return how long one picture takes in one engine. Raises AgentError where it cannot run."""
    runtime = load(engine, model, threads)
    shape = [size if isinstance(size, int) and size > 0 else _FALLBACK_PX for size in runtime.input_shape]
    picture = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    (times,) = measure([lambda: runtime.run(picture)], effort)
    return describe(times)


def main() -> int:
    """Measure what the JSON file says and print the figures, or an error, as one line of JSON."""
    die_with_parent()
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Limits(spec["threads"], (), spec["memory_bytes"]).apply_memory()
    try:
        timing = profile(Path(spec["model"]), spec["engine"], spec["threads"], Effort(**spec["effort"]))
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
