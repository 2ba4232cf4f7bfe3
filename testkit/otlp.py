"""A receiver of traces by OTLP over HTTP, as a collector is one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from testkit.http_stub import Quiet, answering
from testkit.waiting import until


@dataclass(frozen=True)
class Span:
    """A span as it arrived. IDs are hexadecimal digits; times are in nanoseconds."""

    name: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    attributes: dict[str, str | int]
    links: list[str]  # the IDs of spans
    failed: bool
    service: str

    @property
    def nanoseconds(self) -> int:
        return self.end - self.start


class Receiver:
    """url: what OTEL_EXPORTER_OTLP_ENDPOINT is set to."""

    def __init__(self, url: str, spans: list[Span]) -> None:
        self.url = url
        self.spans = spans

    def trace(self, trace: str) -> list[Span]:
        """The spans of a trace so far, in the order in which they began."""
        return sorted((s for s in list(self.spans) if s.trace == trace), key=lambda s: s.start)

    def wait(self, trace: str, done: Callable[[list[Span]], bool]) -> list[Span]:
        """The spans of a trace, as soon as they are `done`."""
        until(lambda: done(self.trace(trace)))
        return self.trace(trace)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """It answers until the block ends."""
    spans: list[Span] = []

    class Handler(Quiet):
        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            spans.extend(_spans(ExportTraceServiceRequest.FromString(body)))
            self.answer(b"", "application/x-protobuf")

    with answering(Handler) as port:
        yield Receiver(f"http://127.0.0.1:{port}", spans)


def _spans(request: Any) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _attributes(span.attributes),
                    [link.span_id.hex() for link in span.links],
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    str(service),
                )


def _attributes(pairs: Any) -> dict[str, str | int]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
