"""Precision against recall: how often answers are right when the unsure ones are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from milonga_hub.web.charts.drawing import Scale, bottom_axis, left_axis, path, picture
from milonga_hub.web.language import gettext as _
from milonga_hub.web.words import percent

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 58, 545, 30, 278


def precision_recall(curve: Mapping[str, Sequence[float]]) -> Markup:
    """Return the picture of {"recall", "precision"}, both (points,). Empty without two points."""
    points = list(zip(curve.get("recall", ()), curve.get("precision", ()), strict=False))
    if len(points) < 2:
        return Markup("")
    x, y = Scale(0.0, 1.0, LEFT, RIGHT), Scale(0.0, 1.0, BOTTOM, TOP)
    parts = [*left_axis(y, LEFT, RIGHT, _("precision"), percent=True), *bottom_axis(x, BOTTOM, _("recall"))]
    parts.append(path([(x(recall), y(precision)) for recall, precision in points], "line s1"))
    said = _(
        "Precision against recall: %(precision)s at a recall of %(recall)s",
        precision=percent(points[-1][1]),
        recall=percent(points[-1][0]),
    )
    return picture(WIDTH, HEIGHT, said, parts, [[_("recall"), _("precision")], *([*point] for point in points)])
