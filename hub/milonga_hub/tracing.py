"""Traces of what the hub does, by OpenTelemetry, where a collector is named; else nothing is imported and nothing done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from milonga_hub.errors import FailedPrecondition, InvalidInput

_PATH = "/v1/traces"
# None while nothing is traced.
_tracer: Any = None


def is_on() -> bool:
    return _tracer is not None


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[Any]:
    """Trace the block under this name, within the span that is open already; yields the span, or None."""
    if _tracer is None:
        yield None
        return
    with _tracer.start_as_current_span(name, attributes=attributes) as opened:
        yield opened


@contextmanager
def answering(name: str, headers: Iterable[tuple[str, Any]], **attributes: str | int) -> Iterator[Any]:
    """Trace the block as the answer to a call: within the trace of who calls, where the call's headers name one (W3C Trace Context)."""
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carried = {_text(key).lower(): _text(value) for key, value in headers}
    context = TraceContextTextMapPropagator().extract(carried)
    with _tracer.start_as_current_span(name, context, SpanKind.SERVER, attributes=attributes) as opened:
        yield opened


def fail(span: Any) -> None:
    """Mark a span as failed where no exception leaves it."""
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)


def _text(part: str | bytes) -> str:
    return part.decode("latin-1") if isinstance(part, bytes) else part


def start(endpoint: str, processor: Any = None) -> Callable[[], None]:
    """Send spans to this collector (OTLP over HTTP); return what sends the last of them and ends it.

    "" traces nothing. `processor` takes spans in the collector's place. Raises FailedPrecondition where the packages are missing.
    """
    global _tracer
    if not endpoint:
        return lambda: None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        processor = processor or _exporting(endpoint)
    except ImportError as error:
        raise FailedPrecondition(
            "--traces-endpoint needs packages that are not installed: pip install 'milonga-hub[traces]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": "milonga-hub"}), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("milonga_hub")
    return lambda: _end(provider)


def _exporting(endpoint: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidInput(f"--traces-endpoint {endpoint!r} is not a collector's address; write http://collector:4318")
    return BatchSpanProcessor(OTLPSpanExporter(endpoint.rstrip("/") + (_PATH if parts.path in ("", "/") else "")))


def _end(provider: Any) -> None:
    global _tracer
    _tracer = None
    provider.shutdown()


class TracedLines(logging.Formatter):
    """Log lines with the trace that they belong to behind them: `... trace=4bf92f3577b34da6a3ce929d0e0e4736`."""

    def format(self, record: logging.LogRecord) -> str:
        text, trace_id = super().format(record), current_trace()
        return f"{text} trace={trace_id}" if trace_id else text


def current_trace() -> str:
    """Return the id of the trace that is open here; "" for none."""
    if _tracer is None:
        return ""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""
