"""How is it told that a line was collected? SHELL: noted when it is folded in, told when its segment is durable.

A line that is traced comes between a hundred that are not, and what is done for it alone finds everything out of the
processor's caches: its span is made when it is exported.
"""

import time
from collections.abc import Iterable

import msgspec

from shared.log_reader import Record
from shared.record_headers import CompletionHeaders
from shared.record_spans import EndedSpan, NotedLine, processed
from shared.span_attributes import Attributes, processed_line
from shared.telemetry import Telemetry
from shared.trace_context import is_sampled, may_be_sampled


class LineTraces:
    """The traced lines of a segment that is not durable yet."""

    def __init__(self, telemetry: Telemetry, topic: str) -> None:
        self._telemetry = telemetry
        self._topic = topic
        self._noted: list[_Collected] = []

    def note(self, traceparent: str, record: Record, headers: CompletionHeaders) -> None:
        """A line was folded in."""
        if may_be_sampled(traceparent):
            batch_id, line, now_ns = headers.batch_id, headers.line, time.time_ns()
            self._noted.append(
                _Collected(traceparent, self._topic, record.partition, record.offset, batch_id, line, now_ns)
            )

    def tell(self, segment_key: str) -> list[str]:
        """All of them are durable: a span for each, from then to now; the `traceparent` of each record."""
        noted, self._noted = self._noted, []
        now_ns = time.time_ns()
        self._telemetry.tell_lines(
            [msgspec.structs.replace(each, segment=segment_key, durable_ns=now_ns) for each in noted]
        )
        return [each.traceparent for each in noted]


class _Collected(NotedLine, frozen=True):
    """A record that was folded in, and whose segment was durable, at times in Unix nanoseconds."""

    traceparent: str
    topic: str
    partition: int
    offset: int
    batch_id: str
    line: int
    folded_ns: int
    segment: str = ""
    durable_ns: int = 0

    def spans(self) -> Iterable[EndedSpan]:
        if not is_sampled(self.traceparent):
            return ()
        span = processed(
            self.topic, self._attributes, self.traceparent, began_ns=self.folded_ns, ended_ns=self.durable_ns
        )
        return (span,)

    def _attributes(self) -> Attributes:
        line = processed_line(self.topic, self.partition, self.offset, self.batch_id, self.line)
        return line | {"headrace.segment": self.segment}
