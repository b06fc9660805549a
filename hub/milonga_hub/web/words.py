"""Figures in words, the same on every page and in the reader's language; each is a filter in the templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from milonga_hub.web.language import N_, pgettext
from milonga_hub.web.language import gettext as _
from milonga_hub.web.said import said

NONE = "–"


def ago(when: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago it was: "3 min ago"."""
    if when is None:
        return _("never")
    seconds = ((now or datetime.now(UTC)) - when).total_seconds()
    if seconds < -1:
        return _("in %(duration)s", duration=duration(-seconds))
    return _("%(duration)s ago", duration=duration(max(0.0, seconds)))


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    for size_seconds, form in ((86400, _("%(count)s d")), (3600, _("%(count)s h")), (60, _("%(count)s min"))):
        if seconds >= 2 * size_seconds or seconds == size_seconds:
            return form % {"count": f"{seconds / size_seconds:.0f}"}
    count = f"{seconds:.0f}" if seconds >= 10 or seconds == int(seconds) else _written(f"{seconds:.1f}")
    return _("%(count)s s", count=count)


def exactly(when: datetime | None) -> str:
    return "" if when is None else when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def percent(value: float | None) -> str:
    return NONE if value is None else _written(f"{value:.1%}")


def change(value: float, digits: int = 0) -> str:
    """Return the number with its sign, +0 where nothing of it is left by rounding."""
    return _written(f"{value:+z.{digits}f}")


def ms(value: float | None) -> str:
    return NONE if value is None else f"{figure(value)} ms"


def figure(value: float | None) -> str:
    if value is None:
        return NONE
    return _written(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}")


def count(value: float | None) -> str:
    """Return a large count in short: 1.2 M."""
    if value is None:
        return NONE
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{_written(f'{value / factor:.3g}')} {unit}"
    return _written(f"{value:g}")


def size(size_bytes: float | None) -> str:
    return NONE if size_bytes is None else f"{count(size_bytes)}B" if size_bytes >= 1000 else f"{size_bytes:.0f} B"


def _written(figure: str) -> str:
    """Return the figure with the marks that the language puts in it: 1,234.5 is 1.234,5 in some."""
    point, comma = pgettext("decimal mark", "."), pgettext("mark of thousands", ",")
    return figure if (point, comma) == (".", ",") else figure.translate({ord("."): point, ord(","): comma})


def state(value: Any) -> str:
    """Return an enum or its name for people: NEW_LABELS is "new labels"; terms.py has all of them."""
    return _(_phrase(value))


# Why runs began, where the word alone does not say it.
_CAUSES = {
    "APPLY": N_("a change of the project"),
    "MANUAL": N_("a person"),
    "NEW_LABELS": N_("new labels"),
    "SCHEDULE": N_("the schedule"),
    "ACCURACY": N_("less accuracy"),
    "IMPORT": N_("a model from elsewhere"),
}


def cause(value: Any) -> str:
    """Return what started a run, after the word "by"."""
    text = value.value if isinstance(value, Enum) else str(value)
    return _(_CAUSES[text]) if text in _CAUSES else state(value)


def mark(value: Any) -> str:
    """Return an enum or its name as a class of style.css, the same in all languages: NEW_LABELS is "new-labels"."""
    return _phrase(value).replace(" ", "-")


def _phrase(value: Any) -> str:
    text = value.value if isinstance(value, Enum) else str(value)
    return str(text).lower().replace("_", " ")


def term(text: str) -> str:
    """Return a word of the hub's, such as the name of a stage; terms.py has all of them."""
    return _(text)


def capital(text: str) -> str:
    """Return the text with a large first letter, unless it is a name of its own such as mAP50-95."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:10] or NONE


def version(name: str) -> str:
    """Return models/digits/versions/2 as "digits v2", and the like for runs and data sets."""
    parts = name.split("/")
    if len(parts) == 4:
        if parts[2] == "runs":
            return _("%(project)s run %(number)s", project=parts[1], number=parts[3])
        return f"{parts[1]} v{parts[3]}"
    return name or NONE


FILTERS: Mapping[str, Callable[..., str]] = {
    "ago": ago,
    "duration": duration,
    "exactly": exactly,
    "percent": percent,
    "change": change,
    "ms": ms,
    "figure": figure,
    "count": count,
    "bytes": size,
    "state": state,
    "cause": cause,
    "mark": mark,
    "term": term,
    "said": said,
    "capital": capital,
    "digest": short,
    "version": version,
}
