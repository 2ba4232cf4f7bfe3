"""Traces of the requests that ask a model, where OpenTelemetry's own variables ask for them.

OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 bentoml serve

Its SDK is only imported then. Each request is a span, with one for each of its stages below it; the
run of a batch is a span below the first of the requests in it, linked to all of them.
"""

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from threading import Thread
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import Scope

from serving.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from serving.observability.observation import Observation, Stage

_EXPORTER = "OTEL_TRACES_EXPORTER"
_OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_OTLP_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_GROUP = "opentelemetry_traces_exporter"  # the entry points of the exporters
_NAMES = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}  # theirs, by protocol
_FLUSH_S = 3  # at the end of the process; a collector that is away does not delay it further
METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
)


def exporters() -> list[str]:
    """The exporters that the environment asks for; none: no traces. As OpenTelemetry's
    specification says, but nothing set asks for none.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    named = os.environ.get(_EXPORTER, "")
    if not named.strip() and any(os.environ.get(name) for name in _OTLP_ENDPOINTS):
        named = "otlp"
    names = [name.strip() for name in named.split(",") if name.strip()]
    return [] if "none" in names else names


def load_exporter(name: str) -> Any:
    """The class of an exporter: one that a package offers under this name.

    Raises SettingsError if none does.
    """
    wanted = name
    if name == "otlp":
        protocol = next(filter(None, map(os.environ.get, _OTLP_PROTOCOLS)), "http/protobuf")
        if protocol not in _NAMES:
            raise SettingsError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: use {' or '.join(_NAMES)}"
            )
        wanted = _NAMES[protocol]
    installed = entry_points(group=_GROUP)
    for found in installed.select(name=wanted):
        return found.load()
    raise SettingsError(
        f"{_EXPORTER}={name}: {wanted} is not installed; installed:"
        f" {', '.join(sorted({e.name for e in installed}))}; `pip install '.[otlp]'` in Labrador's"
        " checkout brings otlp_proto_http"
    )


def check() -> None:
    """Raises SettingsError if the environment asks for an exporter that there is not."""
    for name in exporters():
        load_exporter(name)


def configured() -> "Tracing | None":
    """What the environment asks for, or None. Raises SettingsError if it cannot be had."""
    names = exporters()
    return Tracing(names) if names else None


class Tracing:
    """Sends the spans of one worker, from a thread of its own."""

    def __init__(self, names: Sequence[str]) -> None:
        """names: of exporters."""
        try:
            from opentelemetry.propagate import extract
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor

            own = Resource.create({"service.name": "labrador"})
            resource = own.merge(OTELResourceDetector().detect())  # the environment's come first
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            for name in names:
                self._provider.add_span_processor(BatchSpanProcessor(load_exporter(name)()))
        except ValueError as error:  # a variable that the SDK cannot use
            raise SettingsError(f"OpenTelemetry: {error}") from error
        self._extract = extract
        self._tracer = self._provider.get_tracer("labrador")

    def begin(self, scope: Scope, start_s: float) -> "Trace":
        """Begin the span of a request, as a child of the span in its headers, if there is one."""
        from opentelemetry.trace import SpanKind

        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        epoch_ns = time_ns() - int(perf_counter() * 1e9)
        span = self._tracer.start_span(
            method,
            self._extract(Headers(scope=scope)),
            SpanKind.SERVER,
            {"http.request.method": method},
            start_time=epoch_ns + int(start_s * 1e9),
        )
        return Trace(self._tracer, span, method, epoch_ns)

    def close(self) -> None:
        """Send what is left, for at most `_FLUSH_S`."""
        sending = Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_FLUSH_S)


class Trace:
    """The span of one request. epoch_ns: what to add to `perf_counter` for the time of day."""

    def __init__(self, tracer: "Tracer", span: "Span", method: str, epoch_ns: int) -> None:
        from opentelemetry.trace import format_trace_id, set_span_in_context

        self._tracer = tracer
        self._method = method
        self._epoch_ns = epoch_ns
        self._below = set_span_in_context(span)
        self.span = span
        self.id = format_trace_id(span.get_span_context().trace_id)

    def add(
        self, name: "Stage | str", start_s: float, end_s: float, links: Any = (), **attributes: Any
    ) -> None:
        """A span below the request's, that has ended."""
        if self.span.is_recording():
            self._tracer.start_span(
                name, self._below, attributes=attributes, links=links, start_time=self._ns(start_s)
            ).end(self._ns(end_s))

    def end(self, endpoint: str, model: str, status: int, code: str, end_s: float) -> None:
        """End the request's span. code: of the problem that answers it, if one does."""
        from opentelemetry.trace import StatusCode

        attributes: dict[str, str | int] = {
            "http.response.status_code": status,
            "labrador.endpoint": endpoint,
        }
        if model:
            attributes["labrador.model"] = model
        if code:
            attributes["error.type"] = code
        self.span.set_attributes(attributes)
        self.span.update_name(f"{self._method} {endpoint}")
        if status >= 500:
            self.span.set_status(StatusCode.ERROR)
        self.span.end(self._ns(end_s))

    def _ns(self, time_s: float) -> int:
        return self._epoch_ns + int(time_s * 1e9)


def add_batch(batch: "Sequence[Observation]", model: str, start_s: float, end_s: float) -> None:
    """A span `batch` for a run, linked to the requests whose images were in it."""
    traces = dict.fromkeys(o.trace for o in batch if o.trace and o.trace.span.is_recording())
    if not traces:
        return
    from opentelemetry.trace import Link

    first, *_ = traces
    assert first is not None
    links = [Link(trace.span.get_span_context()) for trace in traces if trace]
    named = {"labrador.model": model, "labrador.batch_size": len(batch)}
    first.add("batch", start_s, end_s, links, **named)


def trace_id(headers: Mapping[str, str]) -> str | None:
    """That of the header traceparent, in hexadecimal digits; None if it has none that is valid."""
    from opentelemetry.trace import INVALID_SPAN, format_trace_id, get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract(headers)
    span = get_current_span(context)
    return None if span is INVALID_SPAN else format_trace_id(span.get_span_context().trace_id)
