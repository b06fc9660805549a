"""What a fleet or some devices did over a time, in one picture for each figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from markupsafe import Markup

from milonga_hub.telemetry.rules import SIGNALS
from milonga_hub.telemetry.rules_series import Sum, drift_scores
from milonga_hub.web.charts.lines import Series, Span, lines
from milonga_hub.web.charts.shares import most_frequent, shares
from milonga_hub.web.language import N_
from milonga_hub.web.language import gettext as _

_QUANTILES = (N_("median"), "p95", "p99")
# Pictures of classes are one for each line, and no more than that.
_MOST_CLASSES = 3
# Signals of drift that fit beside each other above a picture.
_MOST_SIGNALS = 5


@dataclass(frozen=True)
class Line:
    """A device, or all devices with one model version. `reference` is what its validation pictures were like."""

    name: str
    sums: Sequence[Sum]
    reference: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[str] = ()


def monitoring(
    of: Sequence[Line], span: Span, step_seconds: float, drift_threshold: float | None
) -> list[tuple[str, Markup]]:
    """Return pictures with their titles, those that have something to show."""

    def series(value: Callable[[Sum], float | None]) -> list[Series]:
        return [
            Series(line.name, [(s.started_at, found) for s in line.sums if (found := value(s)) is not None], colour)
            for colour, line in enumerate(of)
        ]

    def whole(sum_: Sum) -> bool:
        # The step that is under way has fewer requests so far.
        return sum_.started_at + timedelta(seconds=step_seconds) <= span.until

    def drawn(title: str, unit: str, value: Callable[[Sum], float | None], **options: Any) -> tuple[str, Markup]:
        return title, lines(title, unit, series(value), span=span, **options)

    pictures = [
        drawn(_("Requests a second"), _("a second"), lambda s: s.request_count / step_seconds if whole(s) else None),
        *_latency(of, span),
        drawn(_("Errors"), _("% of requests"), lambda s: _percent(s.error_share)),
        drawn(_("Confidence, mean"), "", lambda s: s.mean_confidence, highest=1.0),
        *_drift(of, span, drift_threshold),
        *_classes(of, span, step_seconds),
        drawn(_("Processor, mean"), "%", lambda s: s.cpu_percent),
        drawn(_("Memory, the most"), "MB", lambda s: s.memory_bytes / 1e6 if s.memory_bytes else None),
        drawn(_("Temperature, the hottest"), "°C", lambda s: s.temperature_celsius),
        drawn(_("Throttled"), _("% of windows"), lambda s: _percent(s.throttled_share)),
        drawn(_("Power, mean"), "W", lambda s: s.power_watts),
    ]
    return [(title, picture) for title, picture in pictures if picture]


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100.0


def _latency(of: Sequence[Line], span: Span) -> list[tuple[str, Markup]]:
    """Return one picture of all quantiles for one line, and one for each quantile for several."""
    by_line = [[(s.started_at, found) for s in line.sums if (found := s.latencies_ms) is not None] for line in of]
    if len(of) == 1:
        together = [
            Series(_(name), [(at, found[index]) for at, found in by_line[0]], index)
            for index, name in enumerate(_QUANTILES)
        ]
        return [(_("Latency"), lines(_("Latency"), "ms", together, span=span))]
    return [
        (
            _("Latency, %(quantile)s", quantile=_(name)),
            lines(
                _("Latency, %(quantile)s", quantile=_(name)),
                "ms",
                [
                    Series(line.name, [(at, found[index]) for at, found in points], colour)
                    for colour, (line, points) in enumerate(zip(of, by_line, strict=True))
                ],
                span=span,
            ),
        )
        for index, name in enumerate(_QUANTILES)
    ]


def _drift(of: Sequence[Line], span: Span, threshold: float | None) -> list[tuple[str, Markup]]:
    """Return one picture: of the signals that went furthest for one line, of the worst signal for each of several."""
    scores = [[(s.started_at, drift_scores(s, line.reference)) for s in line.sums] for line in of]
    if len(of) == 1:
        title = _("Unlike the validation pictures, by signal")
        found = [
            Series(_(name), [(at, each[name]) for at, each in scores[0] if name in each], colour)
            for colour, name in enumerate(_furthest([each for _, each in scores[0]]))
        ]
    else:
        title = _("Unlike the validation pictures, worst signal")
        found = [
            Series(line.name, [(at, max(each.values())) for at, each in points if each], colour)
            for colour, (line, points) in enumerate(zip(of, scores, strict=True))
        ]
    return [(title, lines(title, _("stability index"), found, span=span, limit=threshold))]


def _furthest(scores: Sequence[Mapping[str, float]]) -> list[str]:
    """Return as many signals as there is room to name, in their usual order."""
    most = {name: max(each.get(name, 0.0) for each in scores) for name in SIGNALS} if scores else {}
    shown = sorted(most, key=lambda name: -most[name])[:_MOST_SIGNALS]
    return [name for name in SIGNALS if name in shown]


def _classes(of: Sequence[Line], span: Span, step_seconds: float) -> list[tuple[str, Markup]]:
    shown = most_frequent([s.class_counts for line in of for s in line.sums])
    found = []
    for line in of[:_MOST_CLASSES]:
        title = _("Answers by class") if len(of) == 1 else _("Answers by class, %(line)s", line=line.name)
        steps = [(s.started_at, s.class_counts) for s in line.sums]
        found.append((title, shares(title, line.classes, steps, shown, span, step_seconds)))
    return found
