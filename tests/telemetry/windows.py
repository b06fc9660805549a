"""Windows and references for the tests of telemetry."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from milonga.pictures import BINS, INPUT_STATISTICS
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.models import TelemetryWindow

START = datetime(2026, 3, 1, tzinfo=UTC)
BUNDLE = "sha256:" + "1" * 64


def histogram(name: str, counts: Sequence[int]) -> Histogram:
    low, high, _ = BINS[name]
    return Histogram(low=low, high=high, counts=[int(count) for count in counts])


def window(sequence: int = 0, device: str = "pi-1", boot_id: str = "boot", **values: Any) -> TelemetryWindow:
    started = START + timedelta(seconds=30 * sequence)
    defaults: dict[str, Any] = {
        "device": device,
        "boot_id": boot_id,
        "sequence": sequence,
        "started_at": started,
        "ended_at": started + timedelta(seconds=30),
        "bundle": BUNDLE,
        "model_version": "models/digits/versions/1",
        "project": "digits",
    }
    return TelemetryWindow(**{**defaults, **values})


def window_of(counts: dict[str, Sequence[int]], sequence: int = 0, **values: Any) -> TelemetryWindow:
    """Return a window with these histograms; "classes" are the class counts."""
    return window(
        sequence,
        request_count=int(sum(counts["confidence"])),
        confidence=histogram("confidence", counts["confidence"]),
        class_counts=[int(count) for count in counts["classes"]],
        inputs={name: histogram(name, counts[name]) for name in INPUT_STATISTICS},
        **values,
    )


def beta_counts(random: np.random.Generator, size: int, a: float, b: float) -> list[int]:
    return [int(n) for n in np.histogram(random.beta(a, b, size), bins=20, range=(0, 1))[0]]


def plausible_counts(random: np.random.Generator, size: int) -> dict[str, Sequence[int]]:
    """Confidence is steep, pictures vary, ten classes: like a small classifier on small pictures."""
    return {
        "confidence": beta_counts(random, size, 8, 0.7),
        "brightness": beta_counts(random, size, 9, 20),
        "contrast": beta_counts(random, size, 30, 12),
        "sharpness": beta_counts(random, size, 20, 20),
        "chroma": beta_counts(random, size, 6, 20),
        "warmth": beta_counts(random, size, 40, 36),
        "classes": [int(n) for n in random.multinomial(size, [0.1] * 10)],
    }


def reference_of(counts: dict[str, Sequence[int]]) -> dict[str, Any]:
    return {**{name: list(counts[name]) for name in counts if name != "classes"}, "class_counts": counts["classes"]}
