"""Accuracy against latency of the networks that a run looked at for one device type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from milonga_hub.runs.models import Candidate
from milonga_hub.web import words
from milonga_hub.web.axes import accuracy as accuracy_of
from milonga_hub.web.charts.drawing import (
    Scale,
    bottom_axis,
    circle,
    left_axis,
    legend,
    line,
    path,
    picture,
    rect,
    text,
)
from milonga_hub.web.charts.networks import Network, linked, network_rows
from milonga_hub.web.language import gettext as _
from milonga_hub.web.language import ngettext

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 58, 545, 44, 278


def pareto(
    device_type: str,
    candidates: Sequence[Candidate],
    limit_ms: float | None,
    measure: str = "accuracy",
    networks: Mapping[str, Network] | None = None,
) -> Markup:
    """Return the picture; the front is joined, measured subnets are filled, the chosen one stands out.

    Those among `networks`, by a candidate's key, are links.
    """
    points = [
        (c, accuracy)
        for c in candidates
        if (c.predicted_ms or c.measured_ms) and (accuracy := accuracy_of(c)) is not None
    ]
    if not points:
        return Markup("")
    x, y = _scales(points, limit_ms)
    parts = [
        *left_axis(y, LEFT, RIGHT, _(measure), percent=True),
        *bottom_axis(x, BOTTOM, _("milliseconds, log scale")),
    ]
    parts += _limit(x, limit_ms)
    front = sorted((c.predicted_ms or 0.0, accuracy) for c, accuracy in points if c.on_front)
    if len(front) > 1:
        parts.append(path([(x(ms), y(accuracy)) for ms, accuracy in front], "front"))
    for candidate, accuracy in sorted(points, key=lambda point: (point[0].chosen, point[0].measured_ms is not None)):
        parts.append(linked((networks or {}).get(candidate.key), _point(candidate, x, y(accuracy))))
    parts += legend(
        ((_("front, predicted"), "front"), (_("measured"), "mark measured"), (_("chosen"), "mark chosen")), LEFT, 20
    )
    named = words.capital(_(measure))
    said = ngettext(
        "%(measure)s against latency on %(type)s: %(num)s subnet",
        "%(measure)s against latency on %(type)s: %(num)s subnets",
        len(points),
        measure=named,
        type=device_type,
    ) + (f", {_('limit %(latency)s', latency=words.ms(limit_ms))}" if limit_ms is not None else "")
    return picture(WIDTH, HEIGHT, said, parts, network_rows(c for c, _accuracy in points), links=bool(networks))


def _scales(points: Sequence[tuple[Candidate, float]], limit_ms: float | None) -> tuple[Scale, Scale]:
    times = [ms for c, _accuracy in points for ms in (c.predicted_ms, c.measured_ms, limit_ms) if ms]
    accuracies = [accuracy for _, accuracy in points]
    margin = max(0.005, 0.12 * (max(accuracies) - min(accuracies)))
    x = Scale(min(times) * 0.85, max(times) * 1.18, LEFT, RIGHT, logarithmic=True)
    y = Scale(max(0.0, min(accuracies) - margin), min(1.0, max(accuracies) + margin), BOTTOM, TOP)
    return x, y


def _limit(x: Scale, limit_ms: float | None) -> list[Markup]:
    if limit_ms is None:
        return []
    at = x(limit_ms)
    near_edge = at > RIGHT - 110
    return [
        rect(at, TOP, RIGHT - at, BOTTOM - TOP, "beyond"),
        line(at, TOP - 6, at, BOTTOM, "limit"),
        text(
            at + (-6 if near_edge else 6),
            TOP + 4,
            _("limit %(latency)s", latency=words.ms(limit_ms)),
            "limit-text",
            "end" if near_edge else "start",
        ),
    ]


def _point(candidate: Candidate, x: Scale, y: float) -> list[Markup]:
    known = ((candidate.predicted_ms, _("predicted")), (candidate.measured_ms, _("measured")))
    said = [words.percent(accuracy_of(candidate)), *(f"{how} {words.ms(ms)}" for ms, how in known if ms is not None)]
    tip = f"{candidate.description or words.short(candidate.subnet)}: {', '.join(said)}"
    parts = []
    if candidate.measured_ms and candidate.predicted_low_ms and candidate.predicted_high_ms:
        parts.append(line(x(candidate.predicted_low_ms), y, x(candidate.predicted_high_ms), y, "spread"))
    if candidate.predicted_ms:
        parts.append(circle(x(candidate.predicted_ms), y, 3.6, "dot", tip))
    if candidate.measured_ms is None:
        return parts
    parts.append(
        circle(
            x(candidate.measured_ms),
            y,
            7.5 if candidate.chosen else 4.6,
            "dot chosen" if candidate.chosen else "dot measured",
            tip,
        )
    )
    return parts
