"""The span of a traced line's completion, told when its segment is durable."""

import time

from opentelemetry.trace import SpanKind

from services.collector.line_traces import LineTraces
from shared.log_reader import Record
from shared.record_headers import CompletionHeaders
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry
from tests.memory_spans import MemorySpanExporter

HEADERS = CompletionHeaders(kind="line", batch_id="b", line=4, total=9)
CALLERS = [f"00-{'a' * 32}-{'b' * 16}-{flags}" for flags in ("01", "00")]


def test_lines_whose_trace_is_kept_have_a_span_with_their_segment() -> None:
    exporter, before_ns = MemorySpanExporter(), time.time_ns()
    telemetry = Telemetry("test", TelemetrySettings(), exporter)
    traces = LineTraces(telemetry, "completions")
    for offset, traceparent in enumerate([*CALLERS, f"00-{'x' * 32}-{'b' * 16}-01"]):
        traces.note(traceparent, record(offset), HEADERS)
    assert CALLERS[0] in traces.tell("segments/1") and traces.tell("segments/2") == []
    telemetry.close()

    [span] = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("process completions", SpanKind.CONSUMER)
    assert span.parent is not None and f"{span.parent.span_id:016x}" == "b" * 16
    attributes = dict(span.attributes or {})
    assert attributes["headrace.segment"] == "segments/1" and attributes["headrace.line"] == 5
    assert (attributes["messaging.destination.partition.id"], attributes["messaging.kafka.offset"]) == ("3", 0)
    assert before_ns <= (span.start_time or 0) <= (span.end_time or 0) <= time.time_ns()


def record(offset: int) -> Record:
    return Record("completions", 3, offset, 0, 0, None, b"{}", None, 0, 2, ())
