"""What devices saw, in bins, against what the validation pictures were like."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from milonga_hub.web.charts.drawing import Scale, bottom_axis, left_axis, legend, path, picture, rect, tick_text
from milonga_hub.web.language import gettext as _

WIDTH, HEIGHT = 300, 202
LEFT, RIGHT, TOP, BOTTOM = 42, 290, 34, 176


def histogram(
    name: str, low: float, high: float, counts: Sequence[int], reference: Sequence[int] = (), powers: bool = False
) -> Markup:
    """Return shares as bars, and the reference's as an outline. Empty without counts.

    Of `powers` the bins are of log2 of something, and people see the thing itself.
    """
    total, reference_total = sum(counts), sum(reference)
    if not total:
        return Markup("")
    shares = [count / total for count in counts]
    expected = [count / reference_total for count in reference] if reference_total else []
    x = Scale(low, high, LEFT, RIGHT)
    y = Scale(0.0, max([*shares, *expected]) * 1.1, BOTTOM, TOP)
    width = (RIGHT - LEFT) / len(shares)
    parts = left_axis(y, LEFT, RIGHT, percent=True)
    for index, share in enumerate(shares):
        tip = f"{share:.1%} ({counts[index]})"
        parts.append(rect(LEFT + index * width + 0.75, y(share), width - 1.5, BOTTOM - y(share), "bin", tip, 1.5))
    if expected:
        parts.append(path(_outline(expected, y), "reference"))
    itself = (lambda value: float(2.0**value)) if powers else float
    parts += bottom_axis(x, BOTTOM, said=lambda value: tick_text(itself(value)))
    marks = [(_("devices"), "mark bin")] + ([(_("validation pictures"), "reference")] if expected else [])
    parts += legend(marks, LEFT, 16)
    data = [
        [itself(low + (high - low) * index / len(counts)), count, *([reference[index]] if expected else [])]
        for index, count in enumerate(counts)
    ]
    names = [_("%(name)s from", name=name), _("devices"), *([_("validation pictures")] if expected else [])]
    return picture(
        WIDTH,
        HEIGHT,
        _("Distribution of %(name)s over %(count)s requests", name=name, count=total),
        parts,
        [names, *data],
    )


def _outline(shares: Sequence[float], y: Scale) -> list[tuple[float, float]]:
    width = (RIGHT - LEFT) / len(shares)
    points: list[tuple[float, float]] = []
    for index, share in enumerate(shares):
        points += [(LEFT + index * width, y(share)), (LEFT + (index + 1) * width, y(share))]
    return points
