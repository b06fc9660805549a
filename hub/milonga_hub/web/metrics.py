"""`/metrics` for Prometheus: the hub and its fleet. Labels are bounded: devices are counted, never named."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milonga_hub import counts, tracing
from milonga_hub.alerts.models import AlertSeverity, AlertState
from milonga_hub.devices.models import DeviceState
from milonga_hub.runs.models import RunState
from milonga_hub.telemetry.figures import Histogram
from milonga_hub.telemetry.rules import latency_percentiles
from milonga_hub.telemetry.rules_machine import mean_watts
from milonga_hub.web.pages.page import everything
from milonga_hub.web.services import HubServices

# Bins of devices are 20 a decade; four a decade are enough to tell percentiles within a third, and cost a fifth.
_BINS_PER_BUCKET = 5
_API = "/api/v1"
# Of eight an octave.
_POWER_BINS_PER_BUCKET = 4


class Counting:
    """Middleware that counts requests by method and status, and traces them; plain ASGI, so that event streams pass through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = _method(str(scope["method"]))
        with tracing.answering(method, scope["headers"]) as span:

            async def counted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    counts.http_requests[method, str(message["status"])] += 1
                    if span is not None:
                        _describe(span, method, scope, message)
                await send(message)

            await self._app(scope, receive, counted)


def _describe(span: Any, method: str, scope: Scope, start: Message) -> None:
    """Name the span by its route, of which there are few, and not by its path."""
    route = getattr(scope.get("route"), "path", "")
    if route and str(scope["path"]).startswith(f"{_API}/") and not route.startswith(_API):
        # A router that is included tells its routes from there on.
        route = _API + route
    span.update_name(f"{method} {route}".rstrip())
    span.set_attribute("http.request.method", method)
    span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", start["status"])
    if start["status"] >= 500:
        span.set_attribute("error.type", str(start["status"]))
        tracing.fail(span)


def _method(name: str) -> str:
    """Anybody may send any word for a method; labels must be bounded."""
    return name if name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"


def router(hub: HubServices) -> APIRouter:
    api = APIRouter()

    @api.get("/metrics")
    async def metrics() -> Response:
        return await asyncio.to_thread(_exposition, hub)

    return api


def _exposition(hub: HubServices) -> Response:
    # Imported here: a hub that nobody scrapes starts without it.
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(hub))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Collector:
    """Asks the services when it is scraped; nothing is kept up to date in between."""

    def __init__(self, hub: HubServices) -> None:
        self._hub = hub

    def collect(self) -> Iterator[Any]:
        yield from self._process()
        yield from self._fleet()
        yield from self._served()

    def _process(self) -> Iterator[Any]:
        yield _counter("milonga_http_requests", "HTTP requests.", ("method", "status"), counts.http_requests)
        yield _counter("milonga_grpc_calls", "gRPC calls that ended.", ("method", "code"), counts.grpc_calls)
        yield _counter("milonga_jobs", "Jobs that ended.", ("kind", "result"), counts.jobs_ended)
        seconds = {(kind,): value for kind, value in counts.job_seconds.items()}
        yield _counter("milonga_job_seconds", "Time that jobs took.", ("kind",), seconds)
        refused = {(kind,): value for kind, value in counts.refused_messages.items()}
        yield _counter("milonga_refused_messages", "Messages of devices that were not taken.", ("kind",), refused)
        came = {(source,): value for source, value in counts.blob_bytes.items()}
        yield _counter("milonga_blob_bytes", "Bytes of builds that came to devices.", ("source",), came)
        yield _gauge(
            "milonga_blobs_up",
            "1 while the store of blobs answers.",
            (),
            {(): float(not self._hub.blob_watch.problem())},
        )
        yield from self._quotas()
        waiting = {(name,): count() for name, count in counts.queues.items()}
        waiting["runs",] = sum(run.state is RunState.QUEUED for run in self._hub.runs.unfinished())
        waiting["alert_messages",] = self._hub.alerts.deliveries.waiting_count()
        waiting["webhook_messages",] = self._hub.webhooks.waiting_count()
        yield _gauge("milonga_queue_length", "Things that wait.", ("queue",), waiting)

    def _quotas(self) -> Iterator[Any]:
        used: dict[tuple[str, str], float] = {}
        limits: dict[tuple[str, str], float] = {}
        for usage in self._hub.quotas.limited():
            quota = usage.quota
            for what, value, limit in (
                ("storage_bytes", usage.storage_bytes, quota.storage_bytes),
                ("devices", usage.device_count, quota.devices),
                ("runs_at_a_time", usage.open_run_count, quota.runs_at_a_time),
                ("runs_per_day", usage.day_run_count, quota.runs_per_day),
            ):
                if limit is not None:
                    used[usage.project, what], limits[usage.project, what] = value, limit
        labels = ("project", "what")
        yield _gauge("milonga_project_used", "What a limited project takes of the hub.", labels, used)
        yield _gauge("milonga_project_quota", "What a project may take of the hub.", labels, limits)

    def _fleet(self) -> Iterator[Any]:
        known = (one for one in self._hub.devices.outlines() if one.state is not DeviceState.REVOKED)
        devices = Counter((one.device_type, one.state.lower()) for one in known)
        yield _gauge("milonga_devices", "Devices.", ("device_type", "state"), devices)
        standing = everything(lambda token: self._hub.alerts.list(AlertState.OPEN, page_token=token), at_most=10_000)
        severities = Counter(alert.severity for alert in standing)
        by_severity = {(severity.lower(),): severities[severity] for severity in AlertSeverity}
        yield _gauge("milonga_alerts", "Alerts that stand.", ("severity",), by_severity)

    def _served(self) -> Iterator[Any]:
        from prometheus_client.core import HistogramMetricFamily

        labels = ("project", "model_version")
        totals = {(one.project, one.model_version): one for one in self._hub.telemetry.tally.totals()}
        windows = {key: one.window_count for key, one in totals.items()}
        yield _counter("milonga_telemetry_windows", "Telemetry windows that were stored.", labels, windows)
        requests = {key: one.request_count for key, one in totals.items()}
        yield _counter("milonga_served_requests", "Requests that devices answered or failed.", labels, requests)
        errors = {key: one.error_count for key, one in totals.items()}
        yield _counter("milonga_served_errors", "Requests that failed on devices.", labels, errors)
        latency = HistogramMetricFamily("milonga_served_latency_seconds", "Engine time of requests.", labels=labels)
        for key, one in totals.items():
            if one.log10_latency_ms is not None:
                latency.add_metric(key, *_buckets(one.log10_latency_ms))
        yield latency
        held_back = {
            (*key, word): count
            for key, one in totals.items()
            if one.throttled is not None
            for word, count in (("no", sum(one.throttled.counts[:-1])), ("yes", one.throttled.counts[-1]))
        }
        words = "Telemetry windows of machines that tell whether they were throttled."
        yield _counter("milonga_machine_windows", words, (*labels, "throttled"), held_back)
        power = HistogramMetricFamily(
            "milonga_machine_power_watts", "What machines drew, a window each.", labels=labels
        )
        for key, one in totals.items():
            if one.power is not None:
                power.add_metric(key, *_power_buckets(one.power))
        yield power


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Return cumulative buckets in seconds, and the sum as well as the bins tell it."""
    width = (histogram.high - histogram.low) / len(histogram.counts)
    found: list[tuple[str, float]] = []
    total = 0
    for index, count in enumerate(histogram.counts, 1):
        total += count
        if index % _BINS_PER_BUCKET == 0:
            found.append((f"{10 ** (histogram.low + index * width) / 1000:.6g}", float(total)))
    return [*found, ("+Inf", float(total))], latency_percentiles(histogram).mean * total / 1000


def _power_buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Return cumulative buckets in watts, two an octave, and the sum as well as the bins tell it."""
    width = (histogram.high - histogram.low) / len(histogram.counts)
    up_to = [*accumulate(histogram.counts)]
    found = [
        (f"{2 ** (histogram.low + index * width):.6g}", float(total))
        for index, total in enumerate(up_to, 1)
        if index % _POWER_BINS_PER_BUCKET == 0
    ]
    return [*found, ("+Inf", float(up_to[-1]))], (mean_watts(histogram) or 0.0) * up_to[-1]


def _counter(name: str, words: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(name, words, labels=labels), values)


def _gauge(name: str, words: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(name, words, labels=labels), values)


def _filled(family: Any, values: Mapping[Any, float]) -> Any:
    # Counted on while it is read, elsewhere.
    for key, value in sorted(dict(values).items()):
        family.add_metric([str(part) for part in key], value)
    return family
