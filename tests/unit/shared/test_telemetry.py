"""Which lines are traced, and how context travels."""

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry, context_from, line_attributes, links_to, messaging_attributes, traceparent_of


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
