"""How is it told that a line was collected? SHELL: spans for many lines at once, when their segment is durable.

A line that is traced comes between a hundred that are not, and what is done for it alone finds everything out of the
processor's caches.
"""

import time
from functools import partial
from typing import NamedTuple

from shared.log_reader import Record
from shared.record_headers import CompletionHeaders
from shared.record_spans import TellAttributes
from shared.span_attributes import processed_line
from shared.telemetry import Telemetry


class _Noted(NamedTuple):
    """A record that was folded in at a time in Unix nanoseconds."""

    traceparent: str
    attributes: TellAttributes
    folded_ns: int


class LineTraces:
    """The traced lines of a segment that is not durable yet."""

    def __init__(self, telemetry: Telemetry, topic: str) -> None:
        self._telemetry = telemetry
        self._topic = topic
        self._noted: list[_Noted] = []

    def note(self, traceparent: str, record: Record, headers: CompletionHeaders) -> None:
        """A line was folded in."""
        attributes = partial(
            processed_line, record.topic, record.partition, record.offset, headers.batch_id, headers.line
        )
        self._noted.append(_Noted(traceparent, attributes, time.time_ns()))

    def tell(self, segment_key: str) -> list[str]:
        """All of them are durable: a span for each, from then to now; the `traceparent` of each record."""
        all_noted, self._noted = self._noted, []
        for noted in all_noted:
            span = self._telemetry.begin_process(self._topic, noted.attributes, noted.traceparent, noted.folded_ns)
            if span is not None:
                self._telemetry.end(span, {"headrace.segment": segment_key})
        return [noted.traceparent for noted in all_noted]
