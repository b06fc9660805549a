"""What a simulated device measures and sees: plausible, and the same again for the same seed. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from milonga import pictures
from milonga.embeddings import EMBEDDING
from milonga.v1 import agent_pb2

from milonga_agent.comparing import Comparison
from milonga_agent.simulation.spec import draw as draw

# Where the median of repeats lies to p90 and p99, as on boards at rest.
_P90, _P99 = 1.06, 1.15
# Of one kind, boards differ by about 3 % from one to the next.
_BOARD_SPREAD = 0.03
_REPEATS = 40
# So many answers of a version and the next differ on pictures that both know.
_DIFFERENCE = 0.03
# A network ten times as large takes five times as long.
_SIZE_POWER = 0.7
# What is seen where a bundle keeps no reference of its validation pictures.
_PLAIN: Mapping[str, Sequence[int]] = {
    "confidence": [0] * 10 + [1, 1, 1, 2, 2, 3, 4, 8, 18, 60],
    **{name: [0, 0, 1, 3, 6, 10, 14, 17, 18, 17, 14, 10, 6, 3, 1, 0, 0, 0, 0, 0] for name in pictures.INPUT_STATISTICS},
    # Cameras of 640 x 480 pixels.
    "size": [0] * 10 + [1] + [0] * 9,
    "class_counts": [10] * 10,
}


def normal(*parts: object) -> float:
    """Return a number of the standard normal distribution that is always the same for the same parts."""
    radius = math.sqrt(-2.0 * math.log(1.0 - draw("radius", *parts)))
    return radius * math.cos(2.0 * math.pi * draw("angle", *parts))


def board(number: Sequence[object]) -> float:
    """Return how long one board takes, over what its kind takes."""
    return math.exp(_BOARD_SPREAD * normal("board", *number))


def median_ms(base_ms: float, model: str, size_bytes: int, number: Sequence[object]) -> float:
    """Return how long a model takes on one board.

    `base_ms` is its kind's time for a network of a megabyte. What a network does with its weights is not in its size:
    networks of one size differ by up to a factor of two, on all kinds alike.
    """
    of_size = max(0.05, size_bytes / 1e6) ** _SIZE_POWER
    of_network = 2.0 ** (draw("network", model) - 0.5)
    return float(base_ms * of_size * of_network * board(number))


def measurement(
    request: agent_pb2.MeasurementRequest, ms: float, seed: Sequence[object]
) -> agent_pb2.MeasurementResult:
    """Return the result of a measurement whose median is about `ms`."""
    median = ms * math.exp(0.01 * normal("measured", request.id, *seed))
    repeats = max(request.min_repeats, min(_REPEATS, request.max_repeats or _REPEATS))
    size_bytes = sum(file.size_bytes for file in request.files)
    result = agent_pb2.MeasurementResult(
        id=request.id,
        # Weights and activations, and the engine itself.
        peak_memory_bytes=40_000_000 + 3 * size_bytes,
        temperature_celsius=math.nan,
        temperature_begin_celsius=math.nan,
        temperature_max_celsius=math.nan,
        frequency_begin_mhz=math.nan,
        frequency_min_mhz=math.nan,
        frequency_end_mhz=math.nan,
        drift_ratio=1.0,
        median_half_width_ms=0.01 * median,
        settled=True,
        attempts=1,
    )
    result.latency_ms.p50, result.latency_ms.p90, result.latency_ms.p99 = median, _P90 * median, _P99 * median
    result.latency_ms.mean, result.latency_ms.count = 1.02 * median, repeats
    return result


def celsius(throttled: bool, seed: Sequence[object]) -> float:
    """Return how hot a board is; from about 85 degrees on they hold themselves back."""
    return (88.0 if throttled else 45.0) + 3.0 * normal("temperature", *seed)


def watts(at_rest: float | None, cpu_percent: float, seed: Sequence[object]) -> float | None:
    """Return what a board draws, with all of its CPUs at work about twice what it draws at rest; None without a sensor."""
    return None if at_rest is None else at_rest * (1.0 + cpu_percent / 100.0) * math.exp(0.05 * normal("power", *seed))


def compared(requests: int, serving_ms: float, shadow_ms: float, shift: float, seed: Sequence[object]) -> Comparison:
    """Return what a shadow saw; versions differ most on what neither has learned, by half of what was shifted."""
    share = min(1.0, _DIFFERENCE * math.exp(0.3 * normal("compared", *seed)) + 0.5 * abs(shift))
    return Comparison(
        requests=requests,
        answers=requests,
        agreeing=requests - round(share * requests),
        serving_ms=serving_ms,
        shadow_ms=shadow_ms,
    )


def counted(
    ms: float, requests: int, errors: int, reference: Mapping[str, Any], shift: float, seed: Sequence[object]
) -> dict[str, Any]:
    """Return the counts of a window, as observe.Window takes them: drawn from the bundle's reference, moved by `shift`."""
    answers = requests - errors
    known = {**_PLAIN, **reference}
    seen = {
        name: _histogram(name, known[name] if name == "size" else _moved(known[name], shift), answers, seed)
        for name in ("confidence", *pictures.INPUTS)
    }
    if cells := known.get(EMBEDDING):
        # The latter half is far from what was validated.
        seen[EMBEDDING] = {
            "low": 0.0,
            "high": float(len(cells)),
            "counts": spread(_moved(cells, shift), answers, (EMBEDDING, *seed)),
        }
    return {
        "request_count": requests,
        "error_count": errors,
        "latency_ms": {"p50": ms, "p90": _P90 * ms, "p99": _P99 * ms, "mean": 1.02 * ms, "count": answers},
        "log10_latency_ms": _latencies(ms, answers),
        "confidence": seen.pop("confidence"),
        "inputs": seen,
        "class_counts": spread(known["class_counts"], answers, ("classes", *seed)),
    }


def spread(weights: Sequence[float], count: int, seed: Sequence[object]) -> list[int]:
    """Return `count` values over bins by these weights: whole numbers as near to them as chance would have it."""
    total = float(sum(weights))
    if count <= 0 or total <= 0.0:
        return [0] * len(weights)
    found, past, given = [], 0.0, 0
    offset = draw("offset", *seed)
    for weight in weights:
        past += weight
        until = min(count, int(count * past / total + offset))
        found.append(max(0, until - given))
        given = max(given, until)
    return found


def _moved(weights: Sequence[float], shift: float) -> Sequence[float]:
    """Return the weights moved by a share of the range; what would leave it stays in the last bin."""
    bins = round(shift * len(weights))
    if not bins:
        return weights
    moved = [0.0] * len(weights)
    for index, weight in enumerate(weights):
        moved[min(len(weights) - 1, max(0, index + bins))] += weight
    return moved


def _histogram(name: str, weights: Sequence[float], count: int, seed: Sequence[object]) -> dict[str, Any]:
    low, high, _ = pictures.BINS[name]
    return {"low": low, "high": high, "counts": spread(weights, count, (name, *seed))}


def _latencies(ms: float, count: int) -> dict[str, Any]:
    low, high, bins = pictures.BINS["log10_latency_ms"]
    counts = [0] * bins
    for share, factor in ((0.9, 1.0), (0.09, _P90), (0.01, _P99)):
        place = int((math.log10(max(ms * factor, 1e-9)) - low) / (high - low) * bins)
        counts[min(bins - 1, max(0, place))] += round(share * count)
    return {"low": low, "high": high, "counts": counts}
