"""Spans of the hub, caught in memory in place of a collector."""

from __future__ import annotations

import gzip
import logging
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import httpx
import pytest
from milonga.v1 import devices_pb2
from milonga_hub import tracing
from milonga_hub.db import Database
from milonga_hub.errors import FailedPrecondition, InvalidInput
from milonga_hub.events import EventBus
from milonga_hub.projects.models import DriftPolicy
from milonga_hub.telemetry.service import TelemetryService

from tests.databases import database_url
from tests.devices.world import hub as devices_hub
from tests.devices.world import people, run
from tests.simulation.hubs import running
from tests.telemetry.windows import window

pytest.importorskip("opentelemetry.sdk", reason="the extra `traces` is not installed")

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def spans() -> Iterator[Any]:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    end = tracing.start("http://collector", SimpleSpanProcessor(exporter))
    yield exporter
    end()


def names(spans: Any) -> list[str]:
    return [span.name for span in spans.get_finished_spans()]


def test_nothing_is_traced_without_a_collector() -> None:
    tracing.start("")()
    with tracing.span("nothing") as span:
        assert span is None
        assert tracing.current_trace() == ""


def test_what_fails_within_a_span_is_told_by_it(spans: Any) -> None:
    with pytest.raises(ValueError), tracing.span("outer", device="pi-1"), tracing.span("inner"):
        raise ValueError("no")
    inner, outer = spans.get_finished_spans()
    assert (inner.parent.span_id, outer.attributes["device"]) == (outer.context.span_id, "pi-1")
    assert not inner.status.is_ok


def test_log_lines_name_the_trace_that_they_belong_to(spans: Any) -> None:
    record = logging.LogRecord("hub", logging.INFO, "", 0, "said", None, None)
    lines = tracing.TracedLines("%(message)s")
    with tracing.span("saying"):
        assert lines.format(record) == f"said trace={tracing.current_trace()}"
    assert f"{spans.get_finished_spans()[0].context.trace_id:032x}" != "0" * 32
    assert lines.format(record) == "said"


def test_missing_packages_are_named_with_the_line_that_adds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(FailedPrecondition, match=r"pip install 'milonga-hub\[traces\]'"):
        tracing.start("http://collector:4318")


def test_what_is_no_address_of_a_collector_is_refused() -> None:
    with pytest.raises(InvalidInput, match="http://collector:4318"):
        tracing.start("collector:4318")


def test_spans_reach_a_collector_before_the_hub_has_ended() -> None:
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever).start()
        end = tracing.start(f"http://127.0.0.1:{server.server_port}")
        with tracing.span("seen from afar"):
            pass
        end()
        server.shutdown()
    path, body = got[0]
    assert path == "/v1/traces"
    assert b"seen from afar" in (gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body)


def test_calls_requests_and_commits_of_a_hub_are_traced(spans: Any, tmp_path: Path) -> None:
    async def story() -> None:
        async with devices_hub(tmp_path / "devices") as world, people(world) as stub:
            await stub.ListDevices(devices_pb2.ListDevicesRequest(), metadata=[("traceparent", CALLER)])
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetDevice(devices_pb2.GetDeviceRequest(name="devices/none"))
        async with running(tmp_path / "hub") as hub, httpx.AsyncClient() as client:
            await client.get(f"http://{hub.addresses.http}/readyz", headers={"traceparent": CALLER})
            key = (tmp_path / "hub" / "local.key").read_text().partition(".")[0]
            known = {"Authorization": f"Bearer {key}"}
            await client.get(f"http://{hub.addresses.http}/api/v1/devices/none", headers=known)

    run(story())
    assert {"milonga.v1.DeviceService/ListDevices", "GET /readyz"} <= set(names(spans))
    assert "GET /api/v1/devices/{device}" in names(spans)
    by_name = {span.name: span for span in spans.get_finished_spans()}
    refused, listed = (by_name[f"milonga.v1.DeviceService/{name}"] for name in ("GetDevice", "ListDevices"))
    ready = by_name["GET /readyz"]
    assert not refused.status.is_ok
    told = ("rpc.service", "rpc.method", "rpc.grpc.status_code")
    assert [refused.attributes[name] for name in told] == ["milonga.v1.DeviceService", "GetDevice", 5]
    assert [listed.attributes[name] for name in told] == ["milonga.v1.DeviceService", "ListDevices", 0]
    # Whoever calls finds the answer in the trace of the call.
    assert {(span.kind.name, f"{span.context.trace_id:032x}") for span in (listed, ready)} == {
        ("SERVER", CALLER.split("-")[1])
    }
    answered = {span.attributes.get("http.route"): span.attributes for span in spans.get_finished_spans()}
    assert answered["/readyz"]["http.response.status_code"] == 200
    # Named by its route, if at all: paths are without number.
    assert not any("none" in name for name in names(spans))


def test_windows_are_stored_within_a_span(spans: Any, tmp_path: Path) -> None:
    database = Database(database_url(tmp_path / "test.db"))
    database.create_tables()
    TelemetryService(database, EventBus(), lambda bundle: None, lambda project: DriftPolicy()).store(
        [window(1), window(2)]
    )
    assert [(span.name, span.attributes["windows"]) for span in spans.get_finished_spans()] == [("store telemetry", 2)]
