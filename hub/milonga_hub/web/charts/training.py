"""How the training of a supernet goes: accuracy of its largest and smallest subnet, and the loss, by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from milonga_hub.web import words
from milonga_hub.web.charts.drawing import Scale, bottom_axis, circle, left_axis, legend, path, picture
from milonga_hub.web.language import N_, ngettext
from milonga_hub.web.language import gettext as _

WIDTH, HEIGHT = 1080, 262
TOP, BOTTOM = 40, 212
_PANELS = ((50, 520), (600, 1064))
_SERIES = (
    ("accuracy_largest", N_("largest subnet"), "line s1"),
    ("accuracy_smallest", N_("smallest subnet"), "line s2"),
)


def training(history: Sequence[Mapping[str, float]], measure: str = "accuracy") -> Markup:
    """Return two panels beside each other: accuracy, by the name of its measure, and loss. Empty while there is no epoch."""
    points = [point for point in history if "epoch" in point]
    if not points:
        return Markup("")
    epochs = [point["epoch"] for point in points]
    low, high = min(epochs), max(max(epochs), min(epochs) + 1)
    parts: list[Markup] = []
    left, right = _PANELS[0]
    x, y = Scale(low, high, left, right), Scale(0.0, 1.0, BOTTOM, TOP)
    parts += [*left_axis(y, left, right, percent=True), *bottom_axis(x, BOTTOM, _("epoch"))]
    for name, _label, cls in _SERIES:
        parts += _line([(point["epoch"], point[name]) for point in points if name in point], x, y, cls)
    parts += legend([(f"{_(measure)}, {_(label)}", cls) for _key, label, cls in _SERIES], left, 18)
    left, right = _PANELS[1]
    losses = [(point["epoch"], point["loss"]) for point in points if "loss" in point]
    if losses:
        x, y = (
            Scale(low, high, left, right),
            Scale(0.0, max(loss for _epoch, loss in losses) * 1.08 or 1.0, BOTTOM, TOP),
        )
        parts += [*left_axis(y, left, right), *bottom_axis(x, BOTTOM, _("epoch"))]
        parts += _line(losses, x, y, "line s3")
        parts += legend([(_("loss"), "line s3")], left, 18)
    last = points[-1]
    said = ngettext(
        "Training, %(num)s epoch; %(measure)s of the largest subnet %(accuracy)s",
        "Training, %(num)s epochs; %(measure)s of the largest subnet %(accuracy)s",
        len(points),
        measure=_(measure),
        accuracy=words.percent(last.get("accuracy_largest")),
    )
    names = sorted({name for point in points for name in point})
    return picture(WIDTH, HEIGHT, said, parts, [names, *([point.get(name) for name in names] for point in points)])


def _line(points: Sequence[tuple[float, float]], x: Scale, y: Scale, cls: str) -> list[Markup]:
    if not points:
        return []
    drawn = [(x(at), y(value)) for at, value in points]
    return [path(drawn, cls), circle(*drawn[-1], 3.2, f"end {cls.split()[-1]}")]
