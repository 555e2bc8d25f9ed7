"""A server that takes spans as OTLP over HTTP, as every collector does, and shows them to tests."""

import gzip
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

FIND_TIMEOUT_S = 30.0
ERROR = 2


@dataclass(frozen=True, slots=True)
class SinkSpan:
    """A span as it came over the wire; ids in hex, no parent is an empty string."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    is_error: bool
    attributes: dict[str, Any]
    links: tuple[str, ...]
    instance: str


@dataclass
class OtlpSink:
    """What was received so far; decoded when somebody looks, so that a bench does not pay for it."""

    port: int
    bodies: deque[bytes] = field(default_factory=deque)
    _decoded: list[SinkSpan] = field(default_factory=list)

    @property
    def spans(self) -> list[SinkSpan]:
        """All spans."""
        while self.bodies:
            self._decoded.extend(_spans_of(ExportTraceServiceRequest.FromString(self.bodies.popleft())))
        return self._decoded

    @property
    def address(self) -> str:
        """For `--otlp`."""
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, wanted: Callable[[SinkSpan], bool], number: int = 1) -> list[SinkSpan]:
        """At least so many spans; fails when they do not come."""
        deadline = time.monotonic() + FIND_TIMEOUT_S
        while len(found := [span for span in list(self.spans) if wanted(span)]) < number:
            assert time.monotonic() < deadline, sorted({(span.service, span.name) for span in self.spans})
            time.sleep(0.1)
        return found

    def trace(self, trace_id: str) -> dict[str, SinkSpan]:
        """The spans of a trace by name."""
        return {span.name: span for span in list(self.spans) if span.trace_id == trace_id}


@contextmanager
def serve_otlp_sink() -> Iterator[OtlpSink]:
    """Listen on a free port while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            sink.bodies.append(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink = OtlpSink(server.server_port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _spans_of(request: ExportTraceServiceRequest) -> Iterator[SinkSpan]:
    for resource in request.resource_spans:
        owner = _attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield SinkSpan(
                    service=owner["service.name"],
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    is_error=span.status.code == ERROR,
                    attributes=_attributes(span.attributes),
                    links=tuple(link.trace_id.hex() for link in span.links),
                    instance=owner["service.instance.id"],
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
