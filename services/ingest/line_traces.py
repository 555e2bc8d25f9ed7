"""How is it told that a line became a record? SHELL: noted when the record is made, told when records are sent.

The root span of a line's trace, linked to the batch's. Whatever follows from what is noted waits until the span is
exported: beside a hundred lines that are not traced, each call for one that is costs several times what it costs in a
loop.
"""

import time
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from opentelemetry.trace import SpanKind

from shared.held_bodies import HeldBodies, Unread
from shared.messages import BatchCreated
from shared.openai_batch import decode_request_line
from shared.record_spans import EndedSpan, RecordSpan
from shared.span_attributes import created_line
from shared.telemetry import Telemetry
from shared.trace_context import LineTrace, line_trace

# An enumeration looks its members up, at each use.
_PRODUCER = SpanKind.PRODUCER


class _Noted(NamedTuple):
    """A line whose record was made at a time in Unix nanoseconds, for this partition of a topic."""

    trace: LineTrace
    number: int
    custom_id: Unread[str]
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
        custom_id = self._values.hold(partial(_custom_id_in, value), len(value))
        self._noted.append(_Noted(trace, number, custom_id, topic, partition, time.time_ns()))
        return trace.traceparent

    def tell(self) -> list[str]:
        """Their records are about to be sent: a span for each; the `traceparent` of each."""
        all_noted, self._noted = self._noted, []
        now_ns = time.time_ns()
        batch_id, batch = self._created.id, self._created.traceparent
        self._telemetry.tell_lines([partial(_spans, batch_id, batch, noted, now_ns) for noted in all_noted])
        return [noted.trace.traceparent for noted in all_noted]


def _custom_id_in(value: bytes) -> str:
    return decode_request_line(value).custom_id


def _spans(batch_id: str, batch: str | None, noted: _Noted, now_ns: int) -> Iterable[EndedSpan]:
    custom_id = noted.custom_id.value()
    attributes = partial(created_line, noted.topic, noted.partition, batch_id, noted.number, custom_id)
    name, links = f"create {noted.topic}", (batch,) if batch else ()
    span = RecordSpan(name, _PRODUCER, *noted.trace, None, attributes, links, noted.made_ns)
    return [EndedSpan(span, {}, None, now_ns)]
