"""A network from its input down: a box for each module, wider bars for more work, arcs where one reads from further up."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from milonga_hub.builds.graph import Part, Shape
from milonga_hub.web import words
from milonga_hub.web.charts.drawing import element, line, picture, rect, text, titled
from milonga_hub.web.charts.table import Cell
from milonga_hub.web.language import gettext as _
from milonga_hub.web.language import ngettext

WIDTH, ROW, TOP = 720, 32, 34
# Arcs have the room left of the boxes, bars that right of them.
_LEFT, _BOX, _BARS, _BAR = 150, 300, 466, 150
_MOST_ARCS_APART = 12


def flow(input_shape: Shape, parts: Sequence[Part]) -> Markup:
    """Return the picture; every box is a link to the part's own element, `part-0` for the first. Empty without parts."""
    if not parts:
        return Markup("")
    most = max(part.macs for part in parts) or 1
    drawn = [
        text(_LEFT, 16, _("input %(shape)s", shape=shape(input_shape)), "tick"),
        text(_BARS, 16, _("multiply-adds"), "tick"),
        text(WIDTH - 6, 16, _("weights"), "tick", "end"),
    ]
    for part in parts:
        drawn += [_arc(source, part.number) for source in part.reads if source != part.number - 1]
        if part.number - 1 in part.reads:
            drawn.append(line(_LEFT + 24, _top(part.number) - 8, _LEFT + 24, _top(part.number), "wire"))
    drawn += [_part(part, part.macs / most) for part in parts]
    said = ngettext(
        "The network from its input down: %(num)s module, %(names)s",
        "The network from its input down: %(num)s modules, %(names)s",
        len(parts),
        names=", ".join(part.name for part in parts),
    )
    # Without arcs there is nothing left of the boxes.
    spare = 0 if any(source != part.number - 1 for part in parts for source in part.reads) else _LEFT - 6
    moved = element("g", Markup("").join(drawn), transform=f"translate({-spare} 0)")
    return picture(WIDTH - spare, TOP + ROW * len(parts) + 4, said, [moved], _data(parts), links=True)


def _data(parts: Sequence[Part]) -> list[list[Cell]]:
    rows: list[list[Cell]] = [[_("module"), _("operation"), _("name"), _("makes"), _("multiply-adds"), _("weights")]]
    for part in parts:
        rows += [
            [part.name, one.kind, one.name, "x".join(map(str, one.makes)), one.macs, one.params]
            for one in part.operations
        ]
    return rows


def shape(value: Shape) -> str:
    """Return what one picture is there: "16 x 32 x 32"."""
    return " × ".join(str(each) if each else "?" for each in value[1:]) or _("one figure")


def _top(index: int) -> float:
    return TOP + ROW * index


def _arc(source: int, index: int) -> Markup:
    """Draw the way from a part further up; the further, the wider the bow."""
    apart = min(_MOST_ARCS_APART, index - source)
    top = _top(source) + ROW / 2 - 4 if source >= 0 else 20.0
    bottom, out = _top(index) + ROW / 2 - 4, _LEFT - 8.0 - apart * 11.0
    return element(
        "path", d=f"M{_LEFT} {top:.1f} C{out:.1f} {top:.1f} {out:.1f} {bottom:.1f} {_LEFT} {bottom:.1f}", cls="wire arc"
    )


def _part(part: Part, share: float) -> Markup:
    y = _top(part.number)
    said = _(
        "%(name)s: makes %(shape)s; %(macs)s multiply-adds, %(params)s weights",
        name=part.name,
        shape=shape(part.makes),
        macs=words.count(part.macs),
        params=words.count(part.params),
    )
    drawn = [
        rect(_LEFT, y, _BOX, ROW - 8, "module", rx=5.0),
        text(_LEFT + 9, y + 16, part.name, "module-name"),
        text(_LEFT + _BOX - 9, y + 16, shape(part.makes), "tick", "end"),
        rect(_BARS, y + 5, max(1.0, _BAR * share) if part.macs else 0.0, ROW - 18, "work", rx=2.0),
        text(_BARS + max(1.0, _BAR * share) + 6, y + 16, words.count(part.macs) if part.macs else "", "tick"),
        text(WIDTH - 6, y + 16, words.count(part.params) if part.params else "–", "tick", "end"),
    ]
    return element(
        "a", titled(said) + Markup("").join(drawn), href=f"#part-{part.number}", aria_label=said, cls="to-part"
    )
