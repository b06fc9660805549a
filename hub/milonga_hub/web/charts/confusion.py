"""What pictures show against what was answered: a square for each pair of classes, darker where it is more frequent."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from milonga_hub.web.charts.drawing import element, picture, text, titled
from milonga_hub.web.charts.table import Cell
from milonga_hub.web.language import gettext as _
from milonga_hub.web.language import ngettext
from milonga_hub.web.words import percent

WIDTH, HEIGHT = 560, 520
LEFT, RIGHT, TOP, BOTTOM = 96, 550, 26, 480
# More classes leave no room for figures, and still more none for names.
_MOST_FIGURES, _MOST_NAMES, _LETTERS = 14, 32, 13


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Return the picture; rows are what pictures show. Empty without pictures."""
    if not any(map(sum, matrix)):
        return Markup("")
    count = len(matrix)
    size = (RIGHT - LEFT) / count
    parts = [text(LEFT, 14, _("answered"), "tick"), text(4, 14, _("shown"), "tick")]
    for row, counts in enumerate(matrix):
        y = TOP + row * (BOTTOM - TOP) / count
        height = (BOTTOM - TOP) / count
        if count <= _MOST_NAMES:
            parts.append(text(LEFT - 6, y + height / 2 + 4, _name(names, row), "tick", "end"))
            parts.append(
                text(LEFT + (row + 0.5) * size, BOTTOM + 16 + 14 * (row % 2), _name(names, row)[:6], "tick", "middle")
            )
        for column, found in enumerate(counts):
            share = found / max(1, sum(counts))
            tip = ngettext(
                "%(num)s picture of %(shown)s was answered with %(answered)s, %(share)s",
                "%(num)s pictures of %(shown)s were answered with %(answered)s, %(share)s",
                found,
                shown=_name(names, row),
                answered=_name(names, column),
                share=percent(share),
            )
            parts.append(_square(LEFT + column * size, y, size, height, share, row == column, tip))
            if found and count <= _MOST_FIGURES:
                cls = "on-dark" if share > 0.55 else ""
                parts.append(text(LEFT + (column + 0.5) * size, y + height / 2 + 4, found, cls, "middle"))
    right = sum(matrix[index][index] for index in range(count))
    said = _(
        "Confusion of %(count)s classes: %(right)s of %(all)s pictures answered rightly",
        count=count,
        right=right,
        all=sum(map(sum, matrix)),
    )
    header = [_("shown"), *(_name(names, column) for column in range(count))]
    rows: list[list[Cell]] = [[_name(names, row), *counts] for row, counts in enumerate(matrix)]
    return picture(WIDTH, HEIGHT, said, parts, [header, *rows])


def _square(x: float, y: float, width: float, height: float, share: float, right: bool, tip: str) -> Markup:
    return element(
        "rect",
        titled(tip),
        x=x + 0.5,
        y=y + 0.5,
        width=width - 1,
        height=height - 1,
        fill_opacity=round(0.04 + 0.9 * share, 3) if share else 0.03,
        cls="pair right" if right else "pair wrong",
    )


def _name(names: Sequence[str], index: int) -> str:
    name = names[index] if index < len(names) else _("class %(name)s", name=index)
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
