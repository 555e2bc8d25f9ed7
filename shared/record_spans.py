"""How is a span about one record kept until it is exported? As a few texts, which `otlp_spans` only then writes.

Most spans are of this kind, and of each is known beforehand that it is kept. They begin and end between the work on
thousands of records that are not traced, where every call costs several times what it costs in a loop, so nothing is
parsed, looked up or put together here: that is done for many at once, on the thread that exports them.
"""

import os
import time
from collections.abc import Callable, Iterable

import msgspec
from opentelemetry.trace import SpanKind

from shared.span_attributes import Attributes
from shared.trace_context import LineTrace, span_id_in, trace_id_in

# So many ids are drawn at once: of one alone, the work is the ways to the generator and to writing a number in hex.
IDS_AT_ONCE = 1_024
_ids: list[str] = []
os.register_at_fork(after_in_child=_ids.clear)
# An enumeration looks its members up, at each use.
_CONSUMER = SpanKind.CONSUMER
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


class NotedLine(msgspec.Struct, frozen=True, array_like=True):
    """What is noted of a traced line until its spans are made (`noted_lines`): nothing but values."""

    def spans(self) -> Iterable[EndedSpan]:
        """Called when they are exported."""
        raise NotImplementedError


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
        trace_id, span_id = trace_id_in(parent), _new_id()
    elif line is not None:
        trace_id, span_id = line.trace_id, line.span_id
    else:
        trace_id, span_id = _new_id() + _new_id(), _new_id()
    return RecordSpan(name, kind, trace_id, span_id, parent, attributes, links, began_ns or time.time_ns())


def continued(traceparent: str) -> str:
    """The `traceparent` of a new span that is inside the trace of a valid one."""
    return f"00-{traceparent[3:35]}-{_new_id()}-01"


def processed(
    topic: str,
    attributes: TellAttributes,
    parent: str,
    *,
    own: str | None = None,
    began_ns: int,
    ended_ns: int,
) -> EndedSpan:
    """The span about the work on a record that has the `traceparent` of `parent`, whose trace is kept.

    Its id is that in its `own` `traceparent`, if others were told of it.
    """
    span_id = _new_id() if own is None else span_id_in(own)
    span = RecordSpan(f"process {topic}", _CONSUMER, trace_id_in(parent), span_id, parent, attributes, (), began_ns)
    return EndedSpan(span, {}, None, ended_ns)


def _new_id() -> str:
    """16 hex digits; zero, which is no id, comes once in 2**64 times."""
    try:
        return _ids.pop()
    except IndexError:
        digits = os.urandom(8 * IDS_AT_ONCE).hex()
        _ids.extend(digits[start : start + 16] for start in range(16, len(digits), 16))
        return digits[:16]
