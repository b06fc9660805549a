"""Where a model version comes from and where it went: columns of boxes, joined from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from milonga_hub.web.charts.drawing import element, picture, rect, text, titled
from milonga_hub.web.language import gettext as _

WIDTH, ROW, TOP = 1080, 46, 34
_GAP, _LETTER_PX = 34.0, 6.4


@dataclass(frozen=True)
class Box:
    """`key` is what others name in `after`; without an address it leads nowhere. `badge` is a second line."""

    key: str
    title: str
    badge: str = ""
    address: str = ""
    after: Sequence[str] = ()


def lineage(columns: Sequence[tuple[str, Sequence[Box]]]) -> Markup:
    """Return the picture of columns by title; a box is joined to those before it that are there. Empty without boxes."""
    columns = [(title, boxes) for title, boxes in columns if boxes]
    if not columns:
        return Markup("")
    width = (WIDTH - _GAP * (len(columns) - 1)) / len(columns)
    rows = max(len(boxes) for _title, boxes in columns)
    places = {
        box.key: (column * (width + _GAP), TOP + ROW * (rows - len(boxes)) / 2 + ROW * row)
        for column, (_title, boxes) in enumerate(columns)
        for row, box in enumerate(boxes)
    }
    wires, drawn = list[Markup](), list[Markup]()
    for column, (title, boxes) in enumerate(columns):
        drawn.append(text(column * (width + _GAP), 16, title, "tick"))
        for box in boxes:
            wires += [_wire(places[key], places[box.key], width) for key in box.after if key in places]
            drawn.append(_box(box, *places[box.key], width))
    said = "; ".join(f"{title}: {', '.join(box.title for box in boxes)}" for title, boxes in columns)
    data = [
        [_("kind"), _("what"), _("about")],
        *([title, box.title, box.badge] for title, boxes in columns for box in boxes),
    ]
    return picture(WIDTH, TOP + ROW * rows, _("Lineage. %(columns)s", columns=said), [*wires, *drawn], data, links=True)


def _wire(source: tuple[float, float], target: tuple[float, float], width: float) -> Markup:
    (x1, y1), (x2, y2) = (source[0] + width, source[1] + ROW / 2 - 4), (target[0], target[1] + ROW / 2 - 4)
    middle = (x1 + x2) / 2
    return element(
        "path", d=f"M{x1:.1f} {y1:.1f} C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}", cls="wire"
    )


def _box(box: Box, x: float, y: float, width: float) -> Markup:
    letters = int((width - 14) / _LETTER_PX)
    said = f"{box.title}, {box.badge}" if box.badge else box.title
    parts = [
        titled(said),
        rect(x, y, width, ROW - 8, "module", rx=6.0),
        text(x + 8, y + 16, _short(box.title, letters), "module-name"),
        text(x + 8, y + 31, _short(box.badge, letters), "tick"),
    ]
    drawn = Markup("").join(parts)
    return element("a", drawn, href=box.address, cls="to-part", aria_label=said) if box.address else drawn


def _short(words: str, letters: int) -> str:
    return words if len(words) <= letters else f"{words[: letters - 1]}…"
