"""How is it told that a line was collected? SHELL: noted when it is folded in, told when its segment is durable.

A line that is traced comes between a hundred that are not, and what is done for it alone finds everything out of the
processor's caches: its span is made when it is exported.
"""

import time
from collections.abc import Iterable
from functools import partial

import msgspec

from shared.log_reader import Record
from shared.record_headers import CompletionHeaders
from shared.record_spans import EndedSpan, processed
from shared.span_attributes import Attributes, processed_line
from shared.telemetry import Telemetry
from shared.trace_context import is_sampled, may_be_sampled


class _Noted(msgspec.Struct, frozen=True):
    """A record that was folded in at a time in Unix nanoseconds."""

    traceparent: str
    partition: int
    offset: int
    batch_id: str
    line: int
    folded_ns: int


class LineTraces:
    """The traced lines of a segment that is not durable yet."""

    def __init__(self, telemetry: Telemetry, topic: str) -> None:
        self._telemetry = telemetry
        self._topic = topic
        self._noted: list[_Noted] = []

    def note(self, traceparent: str, record: Record, headers: CompletionHeaders) -> None:
        """A line was folded in."""
        if may_be_sampled(traceparent):
            noted = _Noted(traceparent, record.partition, record.offset, headers.batch_id, headers.line, time.time_ns())
            self._noted.append(noted)

    def tell(self, segment_key: str) -> list[str]:
        """All of them are durable: a span for each, from then to now; the `traceparent` of each record."""
        all_noted, self._noted = self._noted, []
        now_ns = time.time_ns()
        self._telemetry.tell_lines([partial(_spans, self._topic, noted, segment_key, now_ns) for noted in all_noted])
        return [noted.traceparent for noted in all_noted]


def _spans(topic: str, noted: _Noted, segment_key: str, durable_ns: int) -> Iterable[EndedSpan]:
    def attributes() -> Attributes:
        line = processed_line(topic, noted.partition, noted.offset, noted.batch_id, noted.line)
        return line | {"headrace.segment": segment_key}

    if not is_sampled(noted.traceparent):
        return ()
    return (processed(topic, attributes, noted.traceparent, began_ns=noted.folded_ns, ended_ns=durable_ns),)
