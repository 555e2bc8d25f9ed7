"""How is a span about one record kept until it ends? As a value, which only then becomes one of the client's.

Most spans are of this kind, and of each is known beforehand that it is kept. One that the client's tracer starts asks
a sampler, counts against limits and takes locks for every attribute, which together cost four times as much.
"""

import random
import time

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from shared.span_attributes import Attributes
from shared.trace_context import LineTrace

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _ERROR = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


class RecordSpan(msgspec.Struct, frozen=True):
    """A span that has begun, at a time in Unix nanoseconds; nobody hears of it before it ends."""

    name: str
    kind: SpanKind
    trace_id: int
    span_id: int
    parent: SpanContext | None
    attributes: Attributes
    links: tuple[Link, ...]
    began_ns: int

    @property
    def traceparent(self) -> str:
        """The W3C header of the span."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-01"

    def ended(
        self, resource: Resource, scope: InstrumentationScope, attributes: Attributes, error: str | None, ended_ns: int
    ) -> ReadableSpan:
        """The client's span; `error` is its `error.type`, None = it went well."""
        attributes = self.attributes | attributes
        if error is not None:
            attributes["error.type"] = error
        return ReadableSpan(
            self.name,
            SpanContext(self.trace_id, self.span_id, is_remote=False, trace_flags=_SAMPLED),
            self.parent,
            resource,
            attributes,
            (),
            self.links,
            self.kind,
            status=_UNSET if error is None else _ERROR,
            start_time=self.began_ns,
            end_time=ended_ns,
            instrumentation_scope=scope,
        )


def child_of(parent: SpanContext, name: str, kind: SpanKind, attributes: Attributes, began_ns: int = 0) -> RecordSpan:
    """A span inside a trace, which begins now, or at a time in Unix nanoseconds."""
    return RecordSpan(name, kind, parent.trace_id, _new_id(64), parent, attributes, (), began_ns or time.time_ns())


def root_of(
    ids: LineTrace | None,
    name: str,
    kind: SpanKind,
    attributes: Attributes,
    links: tuple[Link, ...],
    began_ns: int = 0,
) -> RecordSpan:
    """The first span of a trace: of this line's, or of a new one; begins now, or at a time in Unix nanoseconds."""
    trace_id, span_id = (
        (int.from_bytes(ids.trace_id), int.from_bytes(ids.span_id)) if ids else (_new_id(128), _new_id(64))
    )
    return RecordSpan(name, kind, trace_id, span_id, None, attributes, links, began_ns or time.time_ns())


def _new_id(num_bits: int) -> int:
    return random.getrandbits(num_bits) or 1  # zero is no id
