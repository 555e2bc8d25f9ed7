"""Which lines are traced, and how context travels."""

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from shared.errors import ObjectExists
from shared.settings import TelemetrySettings
from shared.telemetry import (
    SPANS_PER_SECOND,
    Telemetry,
    context_from,
    line_attributes,
    links_to,
    messaging_attributes,
    traceparent_of,
    with_trace,
)
from shared.traced_store import TracedStore
from tests.fakes import MemoryObjectStore


def telemetry(ratio: float) -> tuple[Telemetry, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    return Telemetry("test", TelemetrySettings(sample_ratio=ratio), exporter), exporter


def test_nothing_is_traced_without_an_endpoint() -> None:
    quiet = Telemetry("test", TelemetrySettings(sample_ratio=1.0))

    assert not quiet.enabled
    assert not quiet.traces_line("b", 1)
    assert traceparent_of(quiet.tracer.start_span("x")) is None
    quiet.close()


def test_share_of_lines_is_sampled_and_every_service_decides_alike() -> None:
    one, _ = telemetry(0.2)
    other, _ = telemetry(0.2)
    decisions = [one.traces_line("batch_1", n) for n in range(5000)]

    assert 800 < sum(decisions) < 1200
    assert decisions == [other.traces_line("batch_1", n) for n in range(5000)]
    assert all(telemetry(1.0)[0].traces_line("b", n) for n in range(10))
    assert not any(telemetry(0.0)[0].traces_line("b", n) for n in range(10))


def test_context_travels_as_traceparent() -> None:
    traced, exporter = telemetry(1.0)
    parent = traced.tracer.start_span("create t", kind=SpanKind.PRODUCER)
    header = traceparent_of(parent)
    child = traced.tracer.start_span("process t", context_from(header), SpanKind.CONSUMER, links=links_to(header))
    child.end()
    parent.end()
    traced.close()

    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert spans["process t"].parent is not None
    assert spans["process t"].parent.span_id == spans["create t"].context.span_id
    assert spans["process t"].links[0].context.span_id == spans["create t"].context.span_id
    assert spans["create t"].resource.attributes["service.name"] == "headrace-test"


def test_foreign_traceparents_are_harmless() -> None:
    assert context_from(None) is None
    assert links_to(None) == []
    assert links_to("garbage") == []


def test_attributes_follow_the_conventions() -> None:
    assert messaging_attributes("process", "process", "t", 3, 7) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "t",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 7,
    }
    assert line_attributes("b", 0, "c")["headrace.line"] == 1


def parents(traced: Telemetry, number: int) -> list[str]:
    spans = [traced.tracer.start_span(f"create {n}", kind=SpanKind.PRODUCER) for n in range(number)]
    for span in spans:
        span.end()
    return [header for span in spans if (header := traceparent_of(span))]


def test_group_of_records_has_one_span_with_a_link_to_each() -> None:
    traced, exporter = telemetry(1.0)
    batch, lines = parents(traced, 1)[0], parents(traced, 300)
    for operation, parent in (("send", batch), ("poll", None), ("commit", None)):
        with traced.records(operation, "t", lines, 500, parent):
            pass
    traced.close()

    spans = {span.name: span for span in exporter.get_finished_spans()}
    for name, kind in (("send t", "send"), ("poll t", "receive"), ("commit t", "settle")):
        span = spans[name]
        assert span.kind is SpanKind.CLIENT
        assert len(span.links) == 300, "the default limit is 128"
        attributes = dict(span.attributes or {})
        assert attributes["messaging.operation.type"] == kind
        assert attributes["messaging.batch.message_count"] == 500
    assert spans["send t"].parent is not None and f"{spans['send t'].parent.span_id:016x}" == batch.split("-")[2]
    assert spans["poll t"].parent is None and spans["commit t"].parent is None


def test_groups_without_traced_records_have_no_span_and_others_some_a_second() -> None:
    traced, exporter = telemetry(1.0)
    [line] = parents(traced, 1)
    with traced.records("poll", "t", [], 5):
        pass
    for _ in range(5 * SPANS_PER_SECOND):
        with traced.records("poll", "t", [line], 1):
            pass
    traced.close()
    polls = [span for span in exporter.get_finished_spans() if span.name == "poll t"]
    assert SPANS_PER_SECOND <= len(polls) <= 2 * SPANS_PER_SECOND


def test_line_that_failed_is_in_a_trace_of_its_own() -> None:
    traced, exporter = telemetry(0.0)
    traced.failed_line("chat m", 10.0, 12.5, "http_400", line_attributes("b", 3, "c"))
    traced.close()
    [span] = exporter.get_finished_spans()
    assert span.parent is None and span.kind is SpanKind.INTERNAL
    assert (span.start_time, span.end_time) == (10 * 10**9, int(12.5 * 1e9))
    attributes = dict(span.attributes or {})
    assert (attributes["error.type"], attributes["headrace.custom_id"]) == ("http_400", "c")
    assert span.status.status_code is StatusCode.ERROR


def test_line_of_the_log_names_the_trace_that_it_belongs_to() -> None:
    traced, _ = telemetry(1.0)
    assert with_trace(None, "info", {"event": "x"}) == {"event": "x"}
    with traced.tracer.start_as_current_span("validate batch") as span:
        found = with_trace(None, "info", {"event": "x"})
    assert found["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert set(found) == {"event", "trace_id", "span_id"}


async def test_store_is_told_of_inside_a_trace_and_nowhere_else() -> None:
    traced, exporter = telemetry(1.0)
    store = TracedStore(MemoryObjectStore(), traced.tracer, "bucket")
    await store.create("quiet", b"1")
    with traced.tracer.start_as_current_span("finalise batch"):
        await store.create("key", b"1")
        with pytest.raises(ObjectExists):
            await store.create("key", b"2")
        assert await store.read("key") == b"1"
        with pytest.raises(OSError, match="away"):
            await TracedStore(BrokenStore(), traced.tracer, "bucket").size("key")  # type: ignore[arg-type]
    traced.close()

    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == [
        *("create object", "create object", "read object", "size object", "finalise batch"),
    ]
    assert all(span.kind is SpanKind.CLIENT and span.parent for span in spans[:-1])
    assert dict(spans[0].attributes or {}) == {"aws.s3.bucket": "bucket", "aws.s3.key": "key"}
    assert [span.status.status_code for span in spans[:4]] == [StatusCode.UNSET] * 3 + [StatusCode.ERROR]


class BrokenStore:
    async def size(self, _key: str) -> int:
        raise OSError("away")
