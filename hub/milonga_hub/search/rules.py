"""Which candidate a device type gets, and what to say where none fits. Candidates are plain JSON, as the search job
writes them: see search/job.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Candidate = Mapping[str, Any]
# Digest of a subnet, and precision.
Timed = tuple[str, str]


def timed(candidate: Candidate) -> Timed:
    """Return what a measurement of the candidate is found by."""
    return candidate["subnet"], candidate["precision"]


def short_digest(subnet: str) -> str:
    """Return the digest of a subnet as folders of runs are called after it."""
    return subnet.removeprefix("sha256:")[:16]


def within_limits(candidate: Candidate, ms: float, limits: Mapping[str, Any]) -> bool:
    """Whether a candidate of this latency keeps the limits; a limit that is missing or None does not bind."""
    return (
        _keeps(ms, limits.get("latency_ms"))
        and _keeps(candidate["model_bytes"], limits.get("model_bytes"))
        and _keeps(candidate.get("memory_bytes", 0), limits.get("memory_bytes"))
        and _accurate(candidate.get("accuracy"), limits.get("min_accuracy"))
    )


def _accurate(accuracy: float | None, floor: float | None) -> bool:
    """Whether an accuracy reaches the floor; one that is not known yet may."""
    return floor is None or accuracy is None or accuracy >= floor


def _keeps(value: float, limit: float | None) -> bool:
    return limit is None or value <= limit


def ranked(
    candidates: Sequence[dict[str, Any]], times: Mapping[Timed, float], limits: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the candidates whose latency, as measured on the device, keeps the limits, the most accurate first, each subnet once.

    `times` gives measured medians in ms by subnet and precision. One that was not measured is left out. Of equally accurate ones the
    faster comes first, then the smaller.
    """
    fitting = [
        candidate
        for candidate in candidates
        if timed(candidate) in times and within_limits(candidate, times[timed(candidate)], limits)
    ]
    fitting.sort(key=lambda candidate: (-candidate["accuracy"], times[timed(candidate)], candidate["model_bytes"]))
    best: dict[str, dict[str, Any]] = {}
    for candidate in fitting:
        best.setdefault(candidate["subnet"], candidate)
    return list(best.values())


def choose(
    candidates: Sequence[dict[str, Any]], times: Mapping[Timed, float], limits: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the first of `ranked`, or None where none fits."""
    return next(iter(ranked(candidates, times, limits)), None)


def choose_level(
    levels: Sequence[dict[str, Any]], times: Mapping[Timed, float], limits: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the most complex level ({"level", ...}) whose latency, as measured on the device, keeps the limits; or None.

    Of a level's precisions the first that keeps them is taken: they stand in the order that the project prefers.
    """
    fitting = [row for row in levels if timed(row) in times and within_limits(row, times[timed(row)], limits)]
    return max(fitting, key=lambda row: int(row["level"]), default=None)


def explain_impossible(
    device_type: str, limits: Mapping[str, Any], fastest: Candidate | None, times: Mapping[Timed, float]
) -> str:
    """Say why a device type gets nothing, naming the fastest subnet found and what to change."""
    wanted = ", ".join(
        text
        for name, text in (
            ("latency_ms", f"{limits.get('latency_ms')} ms"),
            ("model_bytes", f"{limits.get('model_bytes')} bytes of model"),
            ("memory_bytes", f"{limits.get('memory_bytes')} bytes of memory"),
            ("min_accuracy", f"{limits.get('min_accuracy')} accuracy or more"),
        )
        if limits.get(name) is not None
    )
    said = f"no subnet for {device_type} keeps its limits ({wanted})"
    if fastest is not None:
        predicted, measured = fastest.get("predicted_ms"), times.get(timed(fastest))
        said += f"; the fastest found is {fastest['description']} at" + ",".join(
            f" {ms:.3g} ms {how}" for ms, how in ((predicted, "predicted"), (measured, "measured")) if ms is not None
        )
        said += f", with {fastest['model_bytes']} bytes"
        if limits.get("memory_bytes") is not None:
            said += f" that take {fastest['memory_bytes']} of memory with the engine"
    return f"{said}; raise the limits in the project file and apply it again"
