"""The root span of a traced line, told when its record is sent."""

import time

import pytest
from opentelemetry.trace import SpanKind

from services.ingest.line_traces import LineTraces
from shared.messages import BatchCreated
from shared.noted_lines import READ_LATER_BYTES_MAX
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry
from shared.trace_context import line_trace
from tests.memory_spans import MemorySpanExporter

BATCH = f"00-{'a' * 32}-{'b' * 16}-01"
CREATED = BatchCreated(
    id="b",
    endpoint="e",
    input_file_id="f",
    completion_window="24h",
    created_at=1,
    expires_at=2,
    traceparent=BATCH,
)


@pytest.mark.parametrize("length", [1, READ_LATER_BYTES_MAX])
def test_line_that_is_traced_has_a_span_with_its_custom_id(length: int) -> None:
    exporter = MemorySpanExporter()
    telemetry = Telemetry("test", TelemetrySettings(sample_ratio=1.0), exporter)
    traces, before_ns = LineTraces(telemetry, CREATED), time.time_ns()
    value = f'{{"custom_id": "é-7", "method": "POST", "url": "/v1/x", "body": {{"a": "{"x" * length}"}}}}'.encode()
    traceparent = traces.begin(7, value, "requests", 3)
    assert traceparent == line_trace("b", 7).traceparent
    assert traces.tell() == [traceparent] and traces.tell() == []
    telemetry.close()

    [span] = exporter.get_finished_spans()
    assert (span.name, span.kind, span.parent) == ("create requests", SpanKind.PRODUCER, None)
    assert span.context is not None and f"{span.context.span_id:016x}" == line_trace("b", 7).span_id
    attributes = dict(span.attributes or {})
    assert attributes["headrace.custom_id"] == "é-7" and attributes["headrace.line"] == 8
    assert attributes["messaging.destination.partition.id"] == "3"
    assert [f"{link.context.span_id:016x}" for link in span.links] == ["b" * 16]
    assert before_ns <= (span.start_time or 0) <= (span.end_time or 0) <= time.time_ns()


def test_line_that_is_not_traced_has_none() -> None:
    exporter = MemorySpanExporter()
    telemetry = Telemetry("test", TelemetrySettings(sample_ratio=0.0), exporter)
    traces = LineTraces(telemetry, CREATED)
    assert traces.begin(7, b"never read", "requests", 3) is None and traces.tell() == []
    telemetry.close()
    assert not exporter.get_finished_spans()
