"""Where in pictures objects are: the more boxes cover a part, the stronger its colour."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from milonga_hub.web.charts.drawing import element, picture, rect, text, titled
from milonga_hub.web.charts.table import Cell
from milonga_hub.web.language import gettext as _

SIDE, LEFT, TOP, BOTTOM = 300, 8, 8, 44
_KEY_STEPS = 5


def heatmap(counts: Sequence[Sequence[int]], boxes: int) -> Markup:
    """Return the frame of a picture in even parts, with a key of how many boxes a colour stands for."""
    most = max((count for row in counts for count in row), default=0)
    if not most:
        return Markup("")
    cell = SIDE / len(counts)
    parts = [rect(LEFT, TOP, SIDE, SIDE, "frame")]
    for row, values in enumerate(counts):
        for column, count in enumerate(values):
            if count:
                parts.append(_part(LEFT + column * cell, TOP + row * cell, cell, count, most, boxes))
    parts.append(rect(LEFT, TOP + SIDE + 12, 24 * _KEY_STEPS, 10, "frame"))
    parts += [_key(step) for step in range(_KEY_STEPS)]
    parts.append(text(LEFT + 130, TOP + SIDE + 21, _("0 to %(most)s boxes over a part", most=most), "tick"))
    where = _("Where the boxes are: %(count)s boxes, at most %(most)s over one part", count=boxes, most=most)
    data: list[list[Cell]] = [[_("row"), _("column"), _("boxes")]]
    for row, values in enumerate(counts):
        data += [[float(row), float(column), float(count)] for column, count in enumerate(values)]
    return picture(SIDE + 2 * LEFT, TOP + SIDE + BOTTOM, where, parts, data)


def _key(step: int) -> Markup:
    share = step / (_KEY_STEPS - 1)
    return element("rect", x=LEFT + step * 24, y=TOP + SIDE + 12, width=24, height=10, cls="heat", fill_opacity=share)


def _part(x: float, y: float, cell: float, count: int, most: int, boxes: int) -> Markup:
    tip = f"{count} ({count / boxes:.1%})"
    return element(
        "rect", titled(tip), x=x, y=y, width=cell + 0.2, height=cell + 0.2, cls="heat", fill_opacity=count / most
    )
