"""Which trace does something belong to? W3C context as text, and the ids of a line's trace.

A line's ids follow from its batch and number. Whoever sends it, sends it again or finds that it failed therefore
writes into the same trace, without having to ask what somebody else chose.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, SpanContext, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.record_headers import Header, RequestHeaders

_propagator = TraceContextTextMapPropagator()
_IDS = struct.Struct(">16s8sQ")


class LineTrace(NamedTuple):
    """The trace of a line: its ids, those of its root span, and where it lies in the share that is kept (0 to 1)."""

    trace_id: bytes
    span_id: bytes
    place: float

    @property
    def traceparent(self) -> str:
        """The W3C header of its root span."""
        return f"00-{self.trace_id.hex()}-{self.span_id.hex()}-01"


def line_trace(batch_id: str, line: int) -> LineTrace:
    """The trace of a line (0-based)."""
    digest = hashlib.blake2b(f"{batch_id}#{line}".encode(), digest_size=_IDS.size).digest()
    trace_id, span_id, place = _IDS.unpack(digest)
    return LineTrace(trace_id, span_id, place / 2.0**64)


def trace_of(headers: RequestHeaders) -> LineTrace | None:
    """The trace of a request's line; None for one without a batch, whose caller may have chosen."""
    return None if headers.is_single else line_trace(headers.batch_id, headers.line)


class ChosenIds(RandomIdGenerator):
    """Random ids, but for a span that was given some."""

    def __init__(self) -> None:
        self._chosen: ContextVar[LineTrace | None] = ContextVar("chosen", default=None)

    @contextmanager
    def of(self, chosen: LineTrace) -> Any:
        """The span that is started in the block has the ids of this trace's root."""
        token = self._chosen.set(chosen)
        try:
            yield
        finally:
            self._chosen.reset(token)

    def generate_trace_id(self) -> int:
        """As RandomIdGenerator."""
        chosen = self._chosen.get()
        return int.from_bytes(chosen.trace_id) if chosen else super().generate_trace_id()

    def generate_span_id(self) -> int:
        """As RandomIdGenerator."""
        chosen = self._chosen.get()
        return int.from_bytes(chosen.span_id) if chosen else super().generate_span_id()


def keeps_root(name: str, kind: SpanKind | None, trace_id: int, attributes: Mapping[str, Any], ratio: float) -> bool:
    """Whether a trace that begins with this span is kept.

    Ours begin because they were chosen. The engine begins one for each request without a parent, which are the lines
    that are not traced; of calls that change nothing a share of `ratio` tells enough, because watching is polling.
    """
    if kind is not SpanKind.SERVER:
        return True
    if name == ENGINE_SPAN:
        return False
    method = attributes.get("http.request.method")
    return method not in ("GET", "HEAD", "OPTIONS") or (trace_id & _LOW_BITS) < ratio * 2.0**64


# vLLM's only span.
ENGINE_SPAN = "llm_request"
_LOW_BITS = 2**64 - 1


def traceparent_of(span: trace.Span) -> str | None:
    """The W3C header of a span, or None for one that belongs to no trace."""
    if not span.get_span_context().is_valid:
        return None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent")


def traceparent_in(headers: Iterable[Header] | None) -> str | None:
    """What a record's headers say; the last one, if there are several."""
    found = [value for name, value in headers or () if name == "traceparent" and value]
    return found[-1].decode("ascii", "replace") if found else None


def context_from(traceparent: str | None) -> Context | None:
    """The remote parent that a `traceparent` names; None when there is none."""
    if not traceparent:
        return None
    return _propagator.extract({"traceparent": traceparent})


def is_sampled(traceparent: str | None) -> bool:
    """Whether the span that a `traceparent` names is kept, as far as it says."""
    try:
        return traceparent is not None and bool(int(traceparent[-2:], 16) & 1)
    except ValueError:
        return False


def links_to(*traceparents: str | None) -> list[Link]:
    """Links to the spans that these name."""
    return [link for traceparent in traceparents for link in _link(traceparent)]


def _link(traceparent: str | None) -> Sequence[Link]:
    context = context_from(traceparent)
    if context is None:
        return ()
    target: SpanContext = trace.get_current_span(context).get_span_context()
    return (Link(target),) if target.is_valid else ()
