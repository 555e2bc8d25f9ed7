"""How is it told that a line became a record? SHELL: noted when the record is made, told when records are sent.

The root span of a line's trace, linked to the batch's. Whatever follows from what is noted waits until the span is
exported: beside a hundred lines that are not traced, each call for one that is costs several times what it costs in a
loop.
"""

import time
from functools import partial

import msgspec
from opentelemetry.trace import SpanKind

from shared.held_bodies import HeldBodies
from shared.messages import BatchCreated
from shared.openai_batch import decode_request_line
from shared.record_spans import EndedSpan, RecordSpan
from shared.span_attributes import created_line
from shared.telemetry import Telemetry
from shared.trace_context import LineTrace, line_trace

# An enumeration looks its members up, at each use.
_PRODUCER = SpanKind.PRODUCER


class _Noted(msgspec.Struct, frozen=True):
    """A line whose record was made at a time in Unix nanoseconds, for this partition of a topic."""

    trace: LineTrace
    number: int
    value: bytes
    topic: str
    partition: int
    made_ns: int


class LineTraces:
    """The traced lines of a batch whose records are sent next."""

    def __init__(self, telemetry: Telemetry, created: BatchCreated) -> None:
        self._telemetry = telemetry
        self._created = created
        self._share = telemetry.share_of(created.id)
        self._noted: list[_Noted] = []
        self._values = HeldBodies()

    def begin(self, number: int, value: bytes, topic: str, partition: int) -> str | None:
        """The `traceparent` of a line (0-based) whose record is made now; None where it is not traced."""
        if not self._share.has(number):
            return None
        trace = line_trace(self._created.id, number)
        self._noted.append(_Noted(trace, number, value, topic, partition, time.time_ns()))
        return trace.traceparent

    def tell(self) -> list[str]:
        """Their records are about to be sent: a span for each; the `traceparent` of each."""
        all_noted, self._noted = self._noted, []
        now_ns = time.time_ns()
        self._telemetry.tell_lines(
            [self._values.hold(partial(self._root_of, noted, now_ns), len(noted.value)) for noted in all_noted]
        )
        return [noted.trace.traceparent for noted in all_noted]

    def _root_of(self, noted: _Noted, now_ns: int) -> tuple[EndedSpan]:
        created, custom_id = self._created, decode_request_line(noted.value).custom_id
        attributes = partial(created_line, noted.topic, noted.partition, created.id, noted.number, custom_id)
        links = (created.traceparent,) if created.traceparent else ()
        trace_id, span_id = noted.trace
        span = RecordSpan(f"create {noted.topic}", _PRODUCER, trace_id, span_id, None, attributes, links, noted.made_ns)
        return (EndedSpan(span, {}, None, now_ns),)
