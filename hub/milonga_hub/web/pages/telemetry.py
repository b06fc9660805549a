"""What devices see and do: latency, confidence and inputs against the reference, load, and drift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from milonga_hub.errors import MilongaError
from milonga_hub.telemetry.models import Histogram, TelemetryWindow
from milonga_hub.web.charts.histogram import histogram
from milonga_hub.web.charts.latency import latency
from milonga_hub.web.charts.lines import Series, lines
from milonga_hub.web.pages.page import everything, render
from milonga_hub.web.services import HubServices

_SHOWN_WINDOWS = 600


def router(hub: HubServices) -> APIRouter:
    pages = APIRouter()

    @pages.get("/telemetry")
    async def telemetry(request: Request, project: str = "", device: str = "") -> HTMLResponse:
        windows = everything(
            lambda token: hub.telemetry.query(device, project, page_token=token, page_size=_SHOWN_WINDOWS),
            _SHOWN_WINDOWS,
        )
        windows.sort(key=lambda window: window.ended_at)
        return render(
            request,
            "telemetry.html",
            live="telemetry/,drift/",
            projects=[each.name for each in everything(lambda token: hub.projects.list(page_token=token))],
            names=[each.name for each in hub.devices.matching("")],
            simulated=[each.name for each in hub.devices.matching("simulated=true")],
            project=project,
            device=device,
            requests=sum(window.request_count for window in windows),
            errors=sum(window.error_count for window in windows),
            dropped=sum(_dropped(windows).values()),
            charts=_over_time(windows),
            distributions=_distributions(hub, windows),
            drift=hub.telemetry.drift_events(project, page_size=30)[0],
        )

    return pages


def _by_device(windows: Sequence[TelemetryWindow]) -> dict[str, list[TelemetryWindow]]:
    found: dict[str, list[TelemetryWindow]] = {name: [] for name in sorted({window.device for window in windows})}
    for window in windows:
        found[window.device].append(window)
    return found


def _dropped(windows: Sequence[TelemetryWindow]) -> dict[tuple[str, str], int]:
    """Return messages lost by device and boot: the count grows from boot on, so the last one holds all."""
    return {(window.device, window.boot_id): window.dropped_count for window in windows}


def _over_time(windows: Sequence[TelemetryWindow]) -> list[tuple[str, Markup]]:
    of = _by_device(windows)

    def series(value: Any) -> list[Series]:
        return [
            Series(name, [(w.ended_at, value(w)) for w in found if value(w) is not None], colour)
            for colour, (name, found) in enumerate(of.items())
        ]

    pictures = [
        ("Latency of requests (median; dashed: p99)", latency(of)),
        ("Requests in a window", lines("Requests", "", series(lambda w: float(w.request_count)))),
        ("Processor", lines("Processor", "%", series(lambda w: w.cpu_percent))),
        ("Memory", lines("Memory", "MB", series(lambda w: w.memory_bytes / 1e6))),
        ("Temperature", lines("Temperature", "°C", series(lambda w: w.temperature_celsius))),
    ]
    return [(name, picture) for name, picture in pictures if picture]


def _distributions(
    hub: HubServices, windows: Sequence[TelemetryWindow]
) -> list[tuple[str, str, list[tuple[str, Markup]]]]:
    """Return for the newest version of each project its histograms: (project, version, pictures)."""
    found = []
    for project in sorted({window.project for window in windows if window.project}):
        newest = next(w for w in reversed(windows) if w.project == project)
        same = [w for w in windows if w.project == project and w.model_version == newest.model_version]
        references = [_reference(hub, bundle) for bundle in sorted({w.bundle for w in same})]
        pictures = [
            ("confidence", _picture("confidence", [w.confidence for w in same], references)),
            *(
                (name, _picture(name, [w.inputs.get(name) for w in same], references))
                for name in ("brightness", "contrast", "sharpness")
            ),
        ]
        shown = [(name, picture) for name, picture in pictures if picture]
        if shown:
            found.append((project, newest.model_version, shown))
    return found


def _reference(hub: HubServices, bundle: str) -> dict[str, Any]:
    try:
        reference: dict[str, Any] = hub.builds.manifest(bundle).get("reference") or {}
    except MilongaError:
        return {}
    return reference


def _picture(name: str, histograms: Sequence[Histogram | None], references: Sequence[dict[str, Any]]) -> Markup:
    found = [each for each in histograms if each is not None and each.counts]
    if not found:
        return Markup("")
    first = found[0]
    alike = [each.counts for each in found if (each.low, each.high) == (first.low, first.high)]
    expected = [counts for each in references if len(counts := each.get(name) or []) == len(first.counts)]
    return histogram(name, first.low, first.high, _sum(alike), _sum(expected))


def _sum(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=False)]
