"""Figures in words, the same on every page; each is a filter in the templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

NONE = "–"


def ago(when: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago it was: "3 min ago"."""
    if when is None:
        return "never"
    seconds = ((now or datetime.now(UTC)) - when).total_seconds()
    return f"in {duration(-seconds)}" if seconds < -1 else f"{duration(max(0.0, seconds))} ago"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    for size_seconds, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size_seconds or seconds == size_seconds:
            return f"{seconds / size_seconds:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 or seconds == int(seconds) else f"{seconds:.1f} s"


def exactly(when: datetime | None) -> str:
    return "" if when is None else when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def ms(value: float | None) -> str:
    return NONE if value is None else f"{figure(value)} ms"


def figure(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def count(value: float | None) -> str:
    """Return a large count in short: 1.2 M."""
    if value is None:
        return NONE
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:g}"


def size(size_bytes: float | None) -> str:
    return NONE if size_bytes is None else f"{count(size_bytes)}B" if size_bytes >= 1000 else f"{size_bytes:.0f} B"


def state(value: Any) -> str:
    """Return an enum or its name for people: NEW_LABELS is "new labels"."""
    text = value.value if isinstance(value, Enum) else str(value)
    return str(text).lower().replace("_", " ")


def capital(text: str) -> str:
    """Return the text with a large first letter, unless it is a name of its own such as mAP50-95."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:10] or NONE


def version(name: str) -> str:
    """Return models/digits/versions/2 as "digits v2", and the like for runs and data sets."""
    parts = name.split("/")
    if len(parts) == 4:
        return f"{parts[1]} {'run ' if parts[2] == 'runs' else 'v'}{parts[3]}"
    return name or NONE


FILTERS: Mapping[str, Callable[..., str]] = {
    "ago": ago,
    "duration": duration,
    "exactly": exactly,
    "percent": percent,
    "ms": ms,
    "figure": figure,
    "count": count,
    "bytes": size,
    "state": state,
    "capital": capital,
    "digest": short,
    "version": version,
}
