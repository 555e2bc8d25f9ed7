"""Which trace does something belong to? W3C context as text, and the ids of a line's trace.

A line's ids follow from its batch and number. Whoever sends it, sends it again or finds that it failed therefore
writes into the same trace, without having to ask what somebody else chose.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from shared.record_headers import Header, RequestHeaders

# Later versions than 00 may say more behind the flags, ff is none; ids are not zero.
_VERSION_AND_IDS = r"(?!ff)(?!00.{53}-)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})"
_TRACEPARENT = re.compile(_VERSION_AND_IDS + r"-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = re.compile(_VERSION_AND_IDS + r"-[0-9a-f][13579bdf](?:-.*)?")
_TRACEPARENT_MAX = 312
_ODD = frozenset("13579bdf")
PLACES = 2**64
# PLACES over the golden ratio, odd: multiples of it fill a circle evenly (Knuth, TAOCP 3, 6.4).
_STEP = 0x9E3779B97F4A7C15


class LineTrace(NamedTuple):
    """The ids of a line's trace and of its root span, in hex."""

    trace_id: str
    span_id: str

    @property
    def traceparent(self) -> str:
        """The W3C header of its root span."""
        return f"00-{self.trace_id}-{self.span_id}-01"


def line_trace(batch_id: str, line: int) -> LineTrace:
    """The trace of a line (0-based)."""
    digits = hashlib.blake2b(f"{batch_id}#{line}".encode(), digest_size=24).hexdigest()
    return LineTrace(digits[:32], digits[32:])


class LineShare(NamedTuple):
    """Which lines of a batch are traced: those that lie in [0, `end`) of the PLACES.

    The lines of a batch are spread evenly, and each batch begins elsewhere.
    """

    first: int
    end: int

    def has(self, line: int) -> bool:
        """Whether this line (0-based) is; one multiplication, because it is asked for every line."""
        return (self.first + line * _STEP) & (PLACES - 1) < self.end


@lru_cache(maxsize=1_000)
def line_share(batch_id: str, end: int) -> LineShare:
    """The share of a batch's lines."""
    return LineShare(int.from_bytes(hashlib.blake2b(batch_id.encode(), digest_size=8).digest()), end)


def trace_of(headers: RequestHeaders) -> LineTrace | None:
    """The trace of a request's line; None for one without a batch, whose caller may have chosen."""
    return None if headers.is_single else line_trace(headers.batch_id, headers.line)


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
    return method not in ("GET", "HEAD", "OPTIONS") or trace_id % PLACES < ratio * PLACES


# vLLM's only span.
ENGINE_SPAN = "llm_request"


def span_context(traceparent: str | None) -> SpanContext | None:
    """The span that a `traceparent` names, as the W3C's "Trace Context" 2 defines it."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent and len(traceparent) <= _TRACEPARENT_MAX else None
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))


def ids_in(traceparent: str | None) -> tuple[bytes, bytes] | None:
    """The ids of the trace and of the span that a `traceparent` names, 16 and 8 bytes; None where it is none."""
    found = _TRACEPARENT.fullmatch(traceparent) if traceparent and len(traceparent) <= _TRACEPARENT_MAX else None
    return None if found is None else (bytes.fromhex(found[1]), bytes.fromhex(found[2]))


def trace_id_in(traceparent: str) -> str:
    """The id of its trace, 32 hex digits, in one that is valid."""
    return traceparent[3:35]


def span_id_in(traceparent: str) -> str:
    """The id of its span, 16 hex digits, in one that is valid."""
    return traceparent[36:52]


def traceparent_of(span: trace.Span) -> str | None:
    """The W3C header of a span, or None for one that belongs to no trace."""
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}" if found.is_valid else None


def traceparent_in(headers: Iterable[Header] | None) -> str | None:
    """What a record's headers say; the last one, if there are several."""
    found = [value for name, value in headers or () if name == "traceparent" and value]
    return found[-1].decode("ascii", "replace") if found else None


def context_from(traceparent: str | None) -> Context | None:
    """The remote parent that a `traceparent` names; None when there is none."""
    found = span_context(traceparent)
    return None if found is None else trace.set_span_in_context(NonRecordingSpan(found), Context())


def is_sampled(traceparent: str | None) -> bool:
    """Whether the span that a `traceparent` names is kept, as far as it says; asked of every record that has one."""
    return (
        traceparent is not None and len(traceparent) <= _TRACEPARENT_MAX and _SAMPLED.fullmatch(traceparent) is not None
    )


def may_be_sampled(traceparent: str | None) -> bool:
    """As `is_sampled` for one that is valid; for hot loops, `is_sampled` is asked when the span is exported."""
    return traceparent is not None and traceparent[54:55] in _ODD


def links_to(*traceparents: str | None) -> list[Link]:
    """Links to the spans that these name."""
    return [Link(found) for traceparent in traceparents if (found := span_context(traceparent))]
