"""How is a span about one record kept until it is exported? As a few texts, which only then become one of the client's.

Most spans are of this kind, and of each is known beforehand that it is kept. They begin and end between the work on
thousands of records that are not traced, where every call costs several times what it costs in a loop, so nothing is
parsed, looked up or put together here: that is done for many at once, on the thread that exports them.
"""

import random
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from shared.span_attributes import Attributes
from shared.trace_context import LineTrace, links_to, span_context, trace_id_in

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
# Asked for when the span is exported. What it refers to lives until then, so no bodies of requests or answers.
TellAttributes = Callable[[], Attributes]


class RecordSpan(msgspec.Struct, frozen=True):
    """A span that has begun, at a time in Unix nanoseconds; ids in hex, parent and links as `traceparent`."""

    name: str
    kind: SpanKind
    trace_id: str
    span_id: str
    parent: str | None
    attributes: TellAttributes
    links: tuple[str, ...]
    began_ns: int

    @property
    def traceparent(self) -> str:
        """The W3C header of the span."""
        return f"00-{self.trace_id}-{self.span_id}-01"


class EndedSpan(msgspec.Struct, frozen=True):
    """A span that ended, at a time in Unix nanoseconds; `error` is its `error.type`, None = it went well."""

    span: RecordSpan
    attributes: Attributes
    error: str | None
    ended_ns: int
    # All that the client's processor asks before it takes a span: is it sampled?
    context: ClassVar = SpanContext(1, 1, is_remote=False, trace_flags=_SAMPLED)

    def readable(self, resource: Resource, scope: InstrumentationScope) -> ReadableSpan:
        """The client's span."""
        span, attributes = self.span, self.span.attributes() | self.attributes
        if self.error is not None:
            attributes["error.type"] = self.error
        return ReadableSpan(
            span.name,
            SpanContext(int(span.trace_id, 16), int(span.span_id, 16), is_remote=False, trace_flags=_SAMPLED),
            span_context(span.parent),
            resource,
            attributes,
            (),
            links_to(*span.links),
            span.kind,
            status=_UNSET if self.error is None else _ERROR,
            start_time=span.began_ns,
            end_time=self.ended_ns,
            instrumentation_scope=scope,
        )


class RecordSpanExporter(SpanExporter):
    """Exports spans of ours beside those of the client; their processor calls it on a thread of its own."""

    def __init__(self, exporter: SpanExporter, resource: Resource, scope: InstrumentationScope) -> None:
        self._exporter = exporter
        self._resource = resource
        self._scope = scope

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hand all of them on as the client's."""
        return self._exporter.export([self._readable(span) for span in spans])

    def _readable(self, span: ReadableSpan | EndedSpan) -> ReadableSpan:
        return span.readable(self._resource, self._scope) if isinstance(span, EndedSpan) else span

    def shutdown(self) -> None:
        """End what is tried again."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held here."""
        return self._exporter.force_flush(timeout_millis)


def begin_span(
    name: str,
    kind: SpanKind,
    attributes: TellAttributes,
    *,
    parent: str | None = None,
    line: LineTrace | None = None,
    links: tuple[str, ...] = (),
    began_ns: int = 0,
) -> RecordSpan:
    """A span inside the trace of `parent`, a valid `traceparent`; without one the first of its line's, or of a new one.

    Begins now, or at a time in Unix nanoseconds.
    """
    if parent is not None:
        trace_id, span_id = trace_id_in(parent), _new_id(16)
    elif line is not None:
        trace_id, span_id = line.trace_id.hex(), line.span_id.hex()
    else:
        trace_id, span_id = _new_id(32), _new_id(16)
    return RecordSpan(name, kind, trace_id, span_id, parent, attributes, links, began_ns or time.time_ns())


def _new_id(num_digits: int) -> str:
    return f"{random.getrandbits(4 * num_digits) or 1:0{num_digits}x}"  # zero is no id
