"""What a fleet or some devices did over a time: pictures over time, what they saw, drift and alerts beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from markupsafe import Markup
from milonga.embeddings import EMBEDDING
from milonga.pictures import INPUTS

from milonga_hub.alerts.models import Alert, AlertState
from milonga_hub.db import utc_now
from milonga_hub.errors import MilongaError, NotFound
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.rules_series import Sum, floored, step_for, summed
from milonga_hub.web.charts.histogram import histogram
from milonga_hub.web.charts.lines import COLOURS, Span
from milonga_hub.web.charts.monitoring import Line, monitoring
from milonga_hub.web.language import N_
from milonga_hub.web.language import gettext as _
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices
from milonga_hub.web.words import version as version_words

WINDOWS = {"1h": 3600, "6h": 21600, "24h": 86400, "7d": 604800, "30d": 2592000}
_MOST_LINES = COLOURS
_SHOWN_DRIFT, _SHOWN_ALERTS = 30, 20
# How the distributions of pictures are called, where not by their own name.
_CALLED = {
    "size": N_("pixels a side"),
    "chroma": N_("strength of colours (chroma)"),
    "warmth": N_("warmth of colours"),
    EMBEDDING: N_("groups of alike pictures (embedding), near ones first"),
}
# Those that are counted by log2 of what people see.
_POWERS = ("size",)


@dataclass(frozen=True)
class Asked:
    """What the address asks for; without `until` the time ends now, and the page follows it."""

    project: str
    devices: list[str]
    window: str
    until: datetime | None

    @property
    def seconds(self) -> int:
        return WINDOWS[self.window]


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/telemetry")
    async def earlier(request: Request) -> RedirectResponse:
        """Lead addresses from when the page was called telemetry to where it is now."""
        return RedirectResponse(str(request.url.replace(scheme="", netloc="", path="/monitoring")), 301)

    @pages.get("/monitoring")
    def monitor(
        request: Request,
        project: str = "",
        device: Annotated[list[str] | None, Query()] = None,
        window: str = "1h",
        until: str = "",
    ) -> HTMLResponse:
        """Add up what the pictures show, in a thread of its own: for devices all of their windows are read."""
        names = [name for part in device or [] for each in part.split(",") if (name := each.strip())]
        asked, problem = _asked(project, list(dict.fromkeys(names)), window, until)
        ended = asked.until or utc_now()
        step = step_for(asked.seconds)
        since = floored(ended - timedelta(seconds=asked.seconds), step)
        lines, unknown = _lines(hub, asked, since, ended, step)
        # The sums of a fleet are not as fine as what is asked for.
        step = max(step, _finest(lines, step))
        span = Span(since, ended, gap_seconds=2.5 * step)
        threshold = _threshold(hub, asked.project, lines)
        return render(
            request,
            "monitoring.html",
            live="" if asked.until else _live(asked),
            asked=asked,
            problem=problem or unknown,
            windows=WINDOWS,
            since=since,
            until=ended,
            step=step,
            projects=[each.name for each in everything(lambda token: hub.projects.list(page_token=token))],
            simulated=_simulated(hub, asked.devices),
            totals=[(line, summed(line.sums, since)) for line in lines],
            charts=monitoring(lines, span, step, threshold),
            distributions=[(line.name, shown) for line in lines if (shown := _distributions(line))],
            drift=_drift(hub, asked),
            alerts=_alerts(hub, asked),
        )

    return pages


def _asked(project: str, devices: list[str], window: str, until: str) -> tuple[Asked, str]:
    """Return what is asked for, and what is wrong with it."""
    problem = ""
    if window not in WINDOWS:
        window, problem = (
            "1h",
            _("%(window)s is no window; choose %(windows)s", window=repr(window), windows=", ".join(WINDOWS)),
        )
    if len(devices) > _MOST_LINES:
        problem = _(
            "%(count)s devices are too many to compare; the first %(most)s are shown",
            count=len(devices),
            most=_MOST_LINES,
        )
    ended = None
    if until:
        try:
            ended = datetime.fromisoformat(until)
            ended = ended.replace(tzinfo=UTC) if ended.tzinfo is None else ended.astimezone(UTC)
        except ValueError:
            problem = _("%(text)s is no time; write it like 2026-03-01T12:00", text=repr(until))
    return Asked(project, devices[:_MOST_LINES], window, ended), problem


def _lines(hub: HubServices, asked: Asked, since: datetime, until: datetime, step: int) -> tuple[list[Line], str]:
    """Return a line for each device that is named, else for each model version, with what is not known."""
    if not asked.devices:
        found = hub.telemetry.totals.series(asked.project, since, until, step)
        newest = sorted(found.items(), key=lambda item: item[1][-1].started_at, reverse=True)[:_MOST_LINES]
        return [_of_version(hub, version, sums) for (_, version), sums in sorted(newest)], ""
    lines, unknown = [], []
    for name in asked.devices:
        try:
            device = hub.devices.get(name)
        except NotFound:
            unknown.append(name)
            continue
        sums = hub.telemetry.series(name, since, until, step)
        lines.append(_line(hub, name, sums, [device.active_bundle] if device.active_bundle else []))
    return lines, _("there is no device %(names)s", names=", ".join(unknown)) if unknown else ""


def _of_version(hub: HubServices, version: str, sums: list[Sum]) -> Line:
    bundles = sorted({build.bundle for build in hub.builds.chosen(version).values() if build.bundle})
    return _line(hub, version_words(version) if version else _("no version"), sums, bundles)


def _line(hub: HubServices, name: str, sums: list[Sum], bundles: Sequence[str]) -> Line:
    manifests = [manifest for bundle in bundles if (manifest := _manifest(hub, bundle))]
    references = [each.get("reference") or {} for each in manifests]
    keys = {key for each in references for key in each}
    reference = {key: _added([each[key] for each in references if each.get(key)]) for key in keys}
    if len(references) > 1:
        # Every build has cells of its own, which do not add up to one picture.
        reference.pop(EMBEDDING, None)
    classes = next((each["classes"] for each in manifests if each.get("classes")), ())
    return Line(name, sums, reference, [str(each) for each in classes])


def _manifest(hub: HubServices, bundle: str) -> dict[str, Any]:
    try:
        return hub.builds.manifest(bundle)
    except MilongaError:
        return {}


def _added(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=False)]


def _finest(lines: Sequence[Line], step: int) -> int:
    """Return the shortest time between two sums."""
    gaps = [
        (after.started_at - before.started_at).total_seconds()
        for line in lines
        for before, after in zip(line.sums, line.sums[1:], strict=False)
    ]
    return int(min(gaps, default=step))


def _threshold(hub: HubServices, project: str, lines: Sequence[Line]) -> float | None:
    """Return from where on a project calls it drift; where several may be shown, only if all say the same."""
    projects = everything(lambda token: hub.projects.list(page_token=token)) if lines else []
    found = {each.spec.retraining.drift.threshold for each in projects if project in ("", each.name)}
    return found.pop() if len(found) == 1 else None


def _live(asked: Asked) -> str:
    """Return what the page follows: sums of a fleet are told every few seconds, windows of devices as they come."""
    seen = [f"telemetry/{name}" for name in asked.devices] or [f"telemetry_totals/{asked.project}"]
    return ",".join([*seen, f"drift/{asked.project}", "alerts/"])


def _simulated(hub: HubServices, names: Sequence[str]) -> list[str]:
    """Return which of the devices, or of the whole fleet, are simulated; of a fleet a few stand for all."""
    found = everything(lambda token: hub.devices.list("simulated=true", page_size=50, page_token=token), at_most=50)
    return [each.name for each in found if not names or each.name in names]


def _distributions(line: Line) -> list[tuple[str, Markup]]:
    if not line.sums:
        return []
    whole = summed(line.sums, line.sums[0].started_at)
    pictures = [
        (name, _picture(name, whole.confidence if name == "confidence" else whole.inputs.get(name), line.reference))
        for name in ("confidence", *INPUTS, *([EMBEDDING] if EMBEDDING in line.reference else []))
    ]
    return [(_(_CALLED.get(name, name)), picture) for name, picture in pictures if picture]


def _picture(name: str, seen: Histogram | None, reference: Any) -> Markup:
    if seen is None or not sum(seen.counts):
        return Markup("")
    expected = reference.get(name) or []
    called = _(_CALLED.get(name, name))
    fitting = expected if len(expected) == len(seen.counts) else []
    return histogram(called, seen.low, seen.high, seen.counts, fitting, powers=name in _POWERS)


def _drift(hub: HubServices, asked: Asked) -> list[Any]:
    found = hub.telemetry.drift_events(asked.project, page_size=200)[0]
    return [each for each in found if not asked.devices or each.device in asked.devices][:_SHOWN_DRIFT]


def _alerts(hub: HubServices, asked: Asked) -> list[Alert]:
    found = hub.alerts.list(AlertState.OPEN, asked.project, page_size=200)[0]
    subjects = {f"devices/{name}" for name in asked.devices}
    return [each for each in found if not subjects or each.subject in subjects][:_SHOWN_ALERTS]
