"""How well latency was predicted: what a device measured against what was said before, with the interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from milonga_hub.runs.models import Candidate
from milonga_hub.web import words
from milonga_hub.web.charts.drawing import Scale, bottom_axis, circle, left_axis, legend, line, path, picture
from milonga_hub.web.charts.networks import Network, linked, network_rows
from milonga_hub.web.language import gettext as _
from milonga_hub.web.language import ngettext

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 58, 545, 44, 278


@dataclass(frozen=True)
class Agreement:
    """Of networks that were predicted and measured: how many, how many lie in their interval, the usual error."""

    count: int
    inside_count: int
    median_relative_error: float


def both(candidates: Sequence[Candidate]) -> list[tuple[Candidate, float, float]]:
    """Return those that were predicted and measured, as (candidate, predicted, measured)."""
    return [(c, c.predicted_ms, c.measured_ms) for c in candidates if c.predicted_ms and c.measured_ms]


def agreement(candidates: Sequence[Candidate]) -> Agreement | None:
    """Return how good the predictions were; None where nothing was both predicted and measured."""
    rows = both(candidates)
    if not rows:
        return None
    inside = sum((c.predicted_low_ms or 0.0) <= ms <= (c.predicted_high_ms or 0.0) for c, _, ms in rows)
    return Agreement(len(rows), inside, median(abs(predicted - ms) / ms for _, predicted, ms in rows))


def scatter(device_type: str, candidates: Sequence[Candidate], networks: Mapping[str, Network]) -> Markup:
    """Return the picture; on the diagonal both are equal. Empty where nothing was both predicted and measured."""
    rows = both(candidates)
    if not rows:
        return Markup("")
    times = [ms for c, *both_ms in rows for ms in (*both_ms, c.predicted_low_ms, c.predicted_high_ms) if ms]
    low, high = min(times) * 0.9, max(times) * 1.1
    x, y = Scale(low, high, LEFT, RIGHT, logarithmic=True), Scale(low, high, BOTTOM, TOP, logarithmic=True)
    parts = [
        *left_axis(y, LEFT, RIGHT, _("predicted, ms")),
        *bottom_axis(x, BOTTOM, _("measured, milliseconds, log scale")),
        path([(LEFT, BOTTOM), (RIGHT, TOP)], "diagonal"),
    ]
    for candidate, predicted, measured in sorted(rows, key=lambda row: row[0].chosen):
        drawn = []
        if candidate.predicted_low_ms and candidate.predicted_high_ms:
            at = x(measured)
            drawn.append(line(at, y(candidate.predicted_low_ms), at, y(candidate.predicted_high_ms), "spread"))
        tip = _(
            "%(network)s: predicted %(predicted)s, measured %(measured)s",
            network=words.short(candidate.subnet),
            predicted=words.ms(predicted),
            measured=words.ms(measured),
        )
        cls, radius = ("dot chosen", 7.5) if candidate.chosen else ("dot measured", 4.6)
        drawn.append(circle(x(measured), y(predicted), radius, cls, tip))
        parts.append(linked(networks.get(candidate.key), drawn))
    names = ((_("predicted as measured"), "diagonal"), (_("interval"), "mark interval"), (_("chosen"), "mark chosen"))
    parts += legend(names, LEFT, 20)
    said = ngettext(
        "Predicted against measured latency on %(type)s: %(num)s network",
        "Predicted against measured latency on %(type)s: %(num)s networks",
        len(rows),
        type=device_type,
    )
    return picture(WIDTH, HEIGHT, said, parts, network_rows(row[0] for row in rows), links=bool(networks))
