"""How is it told that a line became a record? SHELL: noted when the record is made, told when records are sent.

The root span of a line's trace, linked to the batch's. Whatever follows from what is noted waits until the span is
exported: beside a hundred lines that are not traced, each call for one that is costs several times what it costs in a
loop.
"""

import time
from collections.abc import Iterable
from functools import partial

import msgspec
from opentelemetry.trace import SpanKind

from shared.messages import BatchCreated
from shared.noted_lines import READ_LATER_BYTES_MAX
from shared.openai_batch import decode_request_line
from shared.record_spans import EndedSpan, NotedLine, RecordSpan
from shared.span_attributes import created_line
from shared.telemetry import Telemetry
from shared.trace_context import line_trace

# An enumeration looks its members up, at each use.
_PRODUCER = SpanKind.PRODUCER


class LineTraces:
    """The traced lines of a batch whose records are sent next."""

    def __init__(self, telemetry: Telemetry, created: BatchCreated) -> None:
        self._telemetry = telemetry
        self._created = created
        self._share = telemetry.share_of(created.id)
        self._noted: list[_Created] = []

    def begin(self, number: int, value: bytes, topic: str, partition: int) -> str | None:
        """The `traceparent` of a line (0-based) whose record is made now; None where it is not traced."""
        if not self._share.has(number):
            return None
        is_long = len(value) > READ_LATER_BYTES_MAX
        noted = _Created(
            traceparent=line_trace(self._created.id, number).traceparent,
            batch_id=self._created.id,
            number=number,
            batch_traceparent=self._created.traceparent,
            value=b"" if is_long else value,
            custom_id=decode_request_line(value).custom_id if is_long else None,
            topic=topic,
            partition=partition,
            made_ns=time.time_ns(),
        )
        self._noted.append(noted)
        return noted.traceparent

    def tell(self) -> list[str]:
        """Their records are about to be sent: a span for each; the `traceparent` of each."""
        noted, self._noted = self._noted, []
        now_ns = time.time_ns()
        self._telemetry.tell_lines([msgspec.structs.replace(each, sent_ns=now_ns) for each in noted])
        return [each.traceparent for each in noted]


class _Created(NotedLine, frozen=True, kw_only=True):
    """A line, or only its id, whose record for this partition of a topic was made and sent at Unix nanoseconds."""

    traceparent: str
    batch_id: str
    number: int
    batch_traceparent: str | None
    value: bytes
    custom_id: str | None
    topic: str
    partition: int
    made_ns: int
    sent_ns: int = 0

    def spans(self) -> Iterable[EndedSpan]:
        custom_id = decode_request_line(self.value).custom_id if self.custom_id is None else self.custom_id
        attributes = partial(created_line, self.topic, self.partition, self.batch_id, self.number, custom_id)
        links = (self.batch_traceparent,) if self.batch_traceparent else ()
        trace_id, span_id = line_trace(self.batch_id, self.number)
        span = RecordSpan(f"create {self.topic}", _PRODUCER, trace_id, span_id, None, attributes, links, self.made_ns)
        return (EndedSpan(span, {}, None, self.sent_ns),)
