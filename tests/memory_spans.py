"""An exporter that keeps spans for tests to look at, all of them as the client's."""

from collections.abc import Sequence

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from shared.record_spans import EndedSpan
from shared.telemetry import SCOPE
from shared.trace_context import links_to, span_context

RESOURCE = Resource({"service.name": "headrace-test"})


class MemorySpanExporter(InMemorySpanExporter):
    """Keeps what is exported."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return super().export([readable(span) if isinstance(span, EndedSpan) else span for span in spans])


def readable(
    ended: EndedSpan, resource: Resource = RESOURCE, scope: InstrumentationScope | None = SCOPE
) -> ReadableSpan:
    """The client's span."""
    span, attributes = ended.span, ended.span.attributes() | ended.attributes
    if ended.error is not None:
        attributes["error.type"] = ended.error
    flags = TraceFlags(TraceFlags.SAMPLED)
    return ReadableSpan(
        span.name,
        SpanContext(int(span.trace_id, 16), int(span.span_id, 16), is_remote=False, trace_flags=flags),
        span_context(span.parent),
        resource,
        attributes,
        (),
        links_to(*span.links),
        span.kind,
        status=Status(StatusCode.UNSET if ended.error is None else StatusCode.ERROR),
        start_time=span.began_ns,
        end_time=ended.ended_ns,
        instrumentation_scope=scope,
    )
