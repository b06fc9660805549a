"""What of each class is in the pictures to train on, beside what is in those to validate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from milonga_hub.datasets.rules_health import ClassHealth
from milonga_hub.web.charts.drawing import Scale, bottom_axis, legend, picture, rect, text
from milonga_hub.web.charts.table import Cell
from milonga_hub.web.language import gettext as _

WIDTH, ROW, LEFT, RIGHT, TOP = 560, 30, 120, 540, 30
# Those whose shares differ most.
MOST_CLASSES = 20
_MOST_LETTERS = 16


@dataclass(frozen=True)
class Splits:
    """The picture, and how unlike both splits are: 0 is alike, 1 is nothing in common (total variation)."""

    picture: Markup
    distance: float


def splits(classes: Sequence[ClassHealth]) -> Splits | None:
    """Return the shares of classes in both splits; None where one of them is empty."""
    train, validation = sum(each.train for each in classes), sum(each.validation for each in classes)
    if not train or not validation:
        return None
    rows = [(each.name, each.train / train, each.validation / validation) for each in classes]
    distance = sum(abs(one - other) for _, one, other in rows) / 2
    unlike = sorted(rows, key=lambda row: -abs(row[1] - row[2]))[:MOST_CLASSES]
    shown = [row for row in rows if row in unlike][:MOST_CLASSES]
    x = Scale(0.0, max(max(one, other) for _, one, other in shown) * 110, LEFT, RIGHT)
    bottom = TOP + ROW * len(shown)
    parts = [
        *legend([(_("to train"), "mark share-1"), (_("to validate"), "mark share-2")], LEFT, 14),
        *bottom_axis(x, bottom, "%"),
    ]
    for index, (name, one, other) in enumerate(shown):
        y = TOP + ROW * index
        called = name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…"
        parts.append(text(LEFT - 8, y + 19, called, "tick", "end"))
        parts.append(rect(LEFT, y + 4, x(100 * one) - LEFT, 10, "share s1", f"{name}: {one:.1%}", 2.0))
        parts.append(rect(LEFT, y + 15, x(100 * other) - LEFT, 10, "share s2", f"{name}: {other:.1%}", 2.0))
    words = _(
        "Shares of classes in both splits: %(classes)s",
        classes=", ".join(f"{name} {one:.1%} {other:.1%}" for name, one, other in shown),
    )
    data: list[list[Cell]] = [[_("class"), _("to train"), _("to validate")]]
    data += [[name, one, other] for name, one, other in rows]
    return Splits(picture(WIDTH, bottom + 38, words, parts, data), distance)
