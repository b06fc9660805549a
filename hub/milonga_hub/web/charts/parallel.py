"""Parallel coordinates: an axis for each figure, a line for each network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from milonga_hub.runs.models import Candidate
from milonga_hub.web.axes import Axis, Range
from milonga_hub.web.charts.drawing import Scale, element, line, path, picture, rect, text, titled
from milonga_hub.web.charts.networks import Network
from milonga_hub.web.language import gettext as _
from milonga_hub.web.language import ngettext

WIDTH, HEIGHT = 1080, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 1024, 54, 270
# Of the strip on an axis in which a pointer draws a range.
_STRIP, _BAND = 44, 18


def parallel(
    axes: Sequence[Axis],
    candidates: Sequence[Candidate],
    networks: Mapping[str, Network],
    ranges: Mapping[str, Range],
) -> Markup:
    """Return the picture; networks by a candidate's key. Lines of chosen networks lie on top. Empty without two axes."""
    if len(axes) < 2 or not candidates:
        return Markup("")
    scales = [_scale(axis, candidates) for axis in axes]
    places = [LEFT + (RIGHT - LEFT) * index / (len(axes) - 1) for index in range(len(axes))]
    ordered = sorted(candidates, key=lambda c: (networks[c.key].selected, c.chosen, c.measured_ms is not None))
    parts = [
        *(_network(each, networks[each.key], axes, scales, places) for each in ordered),
        *(
            _axis(axis, scale, x, ranges.get(axis.name, Range()))
            for axis, scale, x in zip(axes, scales, places, strict=True)
        ),
    ]
    named = ", ".join(_(axis.words) for axis in axes)
    said = ngettext(
        "%(num)s network along %(axes)s",
        "%(num)s networks along %(axes)s",
        len(candidates),
        axes=named,
    )
    data = [[_("network"), *(_(axis.words) for axis in axes)]]
    rows = [[networks[each.key].name, *(axis.value(each) for axis in axes)] for each in candidates]
    return picture(WIDTH, HEIGHT, said, parts, [*data, *rows])


def _scale(axis: Axis, candidates: Sequence[Candidate]) -> Scale:
    values = [value for each in candidates if (value := axis.value(each)) is not None]
    low, high = min(values), max(values)
    return Scale(low, high, BOTTOM, TOP, axis.logarithmic and low > 0)


def _network(
    candidate: Candidate, network: Network, axes: Sequence[Axis], scales: Sequence[Scale], places: Sequence[float]
) -> Markup:
    """Return one line in as many parts as there are gaps between figures that are known."""
    kind = "chosen" if candidate.chosen else "measured" if candidate.measured_ms is not None else "predicted"
    parts, points = list[Markup](), list[tuple[float, float]]()
    for axis, scale, x in zip(axes, scales, places, strict=True):
        value = axis.value(candidate)
        if value is not None:
            points.append((x, scale(value)))
            continue
        parts += _stretch(points, kind)
        points = []
    parts += _stretch(points, kind)
    return element(
        "g", titled(network.name) + Markup("").join(parts), cls=network.cls, data_network=network.number
    )  # Not a link: the dots of the other pictures are.


def _stretch(points: Sequence[tuple[float, float]], kind: str) -> list[Markup]:
    return [path(points, f"strand {kind}")] if len(points) > 1 else []


def _axis(axis: Axis, scale: Scale, x: float, range_: Range) -> Markup:
    low = scale.low if range_.low is None else max(scale.low, range_.low)
    high = scale.high if range_.high is None else min(scale.high, range_.high)
    whole = range_.low is None and range_.high is None
    top, bottom = (TOP, BOTTOM) if whole else (scale(high), scale(low))
    parts = [
        text(x, TOP - 30, _(axis.words), "axis-name", "middle"),
        text(x, TOP - 12, axis.said(scale.high), "tick", "middle"),
        text(x, BOTTOM + 18, axis.said(scale.low), "tick", "middle"),
        line(x, TOP, x, BOTTOM, "axis"),
        rect(x - _BAND / 2, top, _BAND, bottom - top, "band" if whole else "band on"),
        rect(
            x - _STRIP / 2,
            TOP - 6,
            _STRIP,
            BOTTOM - TOP + 12,
            "strip",
            _("%(axis)s: drag to narrow, click to widen", axis=_(axis.words)),
        ),
    ]
    return element(
        "g",
        Markup("").join(parts),
        cls="brushed-axis",
        data_axis=axis.name,
        data_low=repr(scale.low),
        data_high=repr(scale.high),
        data_scale="log" if scale.logarithmic else "linear",
        data_top=TOP,
        data_bottom=BOTTOM,
    )
