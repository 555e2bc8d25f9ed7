"""Which lines are traced, and how context travels."""

import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanKind, StatusCode, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.errors import ObjectExists
from shared.logs import with_trace
from shared.record_spans import EndedSpan, NotedLine, RecordSpan
from shared.settings import TelemetrySettings
from shared.span_attributes import Attributes, line_attributes, messaging_attributes
from shared.telemetry import FAILURES_PER_SECOND, GROUPS_PER_SECOND, Telemetry
from shared.trace_context import (
    context_from,
    is_sampled,
    line_trace,
    links_to,
    span_context,
    traceparent_in,
    traceparent_of,
)
from shared.traced_store import TracedStore
from tests.fakes import MemoryObjectStore
from tests.memory_spans import MemorySpanExporter


def telemetry(ratio: float) -> tuple[Telemetry, MemorySpanExporter]:
    exporter = MemorySpanExporter()
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


def test_span_about_a_record_is_put_together_when_it_is_exported() -> None:
    traced, exporter = telemetry(1.0)
    told: list[str] = []

    def attributes() -> Attributes:
        told.append(threading.current_thread().name)
        return {"a": 1, "b": 2}

    [parent] = parents(traced, 1)
    span = traced.begin_process("t", attributes, parent)
    assert span is not None
    traced.end(span, {"b": 3}, error="http_500")
    assert not told, "the thread that works on records does not"
    traced.close()
    assert len(told) == 1 and told != [threading.current_thread().name]
    [found] = [span for span in exporter.get_finished_spans() if span.name == "process t"]
    assert dict(found.attributes or {}) == {"a": 1, "b": 3, "error.type": "http_500"}
    assert found.parent is not None and found.parent.is_remote
    assert traceparent_of(NonRecordingSpan(found.context)) == span.traceparent


def test_record_whose_trace_is_not_kept_has_no_span() -> None:
    [parent] = parents(telemetry(1.0)[0], 1)
    quiet = Telemetry("test", TelemetrySettings(sample_ratio=1.0))
    assert quiet.begin_process("t", dict, parent) is None
    traced, _ = telemetry(1.0)
    for foreign in (parent[:-2] + "00", "garbage", ""):
        assert traced.begin_process("t", dict, foreign) is None


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
    for _ in range(5 * GROUPS_PER_SECOND):
        with traced.records("poll", "t", [line], 1):
            pass
    traced.close()
    polls = [span for span in exporter.get_finished_spans() if span.name == "poll t"]
    assert GROUPS_PER_SECOND <= len(polls) <= 2 * GROUPS_PER_SECOND


def test_failures_are_in_traces_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.telemetry.time.monotonic", lambda: 7.5)
    traced, exporter = telemetry(0.0)
    for _ in range(FAILURES_PER_SECOND + 100):
        traced.failure("chat m", "http_500", {})
    monkeypatch.undo()
    traced.close()
    assert len(exporter.get_finished_spans()) == FAILURES_PER_SECOND


def test_line_that_failed_is_in_a_trace_of_its_own() -> None:
    traced, exporter = telemetry(0.0)
    found = line_trace("b", 3)
    traced.failure("chat m", "http_400", line_attributes("b", 3, "c"), line=found, began_s=10.0, ended_s=12.5)
    traced.close()
    [span] = exporter.get_finished_spans()
    assert span.parent is None and span.kind is SpanKind.INTERNAL
    assert (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}") == found
    assert (span.start_time, span.end_time) == (10 * 10**9, int(12.5 * 1e9))
    attributes = dict(span.attributes or {})
    assert (attributes["error.type"], attributes["headrace.custom_id"]) == ("http_400", "c")
    assert span.status.status_code is StatusCode.ERROR


class _Root(NotedLine, frozen=True):
    trace_id: str
    span_id: str
    batch: str

    def spans(self) -> list[EndedSpan]:
        span = RecordSpan("create t", SpanKind.PRODUCER, self.trace_id, self.span_id, None, dict, (self.batch,), 1)
        return [EndedSpan(span, {}, None, 2)]


def test_line_has_the_same_trace_whoever_writes_into_it() -> None:
    traced, exporter = telemetry(1.0)
    found = traced.trace_of_line("b", 3)
    assert found is not None and found == line_trace("b", 3) != line_trace("b", 4)
    assert telemetry(0.0)[0].trace_of_line("b", 3) is None
    [batch] = parents(traced, 1)
    with traced.tracer.start_as_current_span("unrelated"):
        traced.tell_lines([_Root(*found, batch)])
    begun = traced.begin_process("t", dict, found.traceparent)
    assert begun is not None and begun.traceparent.startswith(f"00-{found.trace_id}-")
    traced.end(begun, {"more": 1})
    traced.close()

    spans = {span.name: span for span in exporter.get_finished_spans()}
    root, child = spans["create t"], spans["process t"]
    assert child.kind is SpanKind.CONSUMER and dict(child.attributes or {}) == {"more": 1}
    assert child.resource.attributes["service.name"] == "headrace-test"
    assert 0 < (child.start_time or 0) <= (child.end_time or 0) <= time.time_ns()
    assert root.parent is None and root.kind is SpanKind.PRODUCER
    assert (traceparent_of(NonRecordingSpan(root.context)) or "")[:-2] == found.traceparent[:-2]
    assert child.parent is not None and child.parent.span_id == root.context.span_id
    assert child.context.span_id != root.context.span_id
    assert [f"{link.context.trace_id:032x}" for link in root.links] == [batch.split("-")[1]]


def test_trace_of_a_batch_is_kept_whatever_its_caller_decided() -> None:
    traced, exporter = telemetry(0.0)
    for flags in ("01", "00"):
        caller = context_from(f"00-{'a' * 32}-{'b' * 16}-{flags}")
        with traced.kept(f"create batch {flags}", caller, {}) as span:
            assert is_sampled(traceparent_of(span))
    with traced.kept("retry", None, {}, f"00-{'c' * 32}-{'d' * 16}-01"):
        pass
    traced.close()

    spans = {span.name: span for span in exporter.get_finished_spans()}
    continued, own, retry = spans["create batch 01"], spans["create batch 00"], spans["retry"]
    assert continued.parent is not None and f"{continued.context.trace_id:032x}" == "a" * 32
    assert not continued.links
    assert own.parent is None and f"{own.context.trace_id:032x}" != "a" * 32
    assert [f"{link.context.trace_id:032x}" for link in own.links] == ["a" * 32]
    assert retry.parent is None and [f"{link.context.trace_id:032x}" for link in retry.links] == ["c" * 32]


@pytest.mark.parametrize(
    ("name", "kind", "attributes", "share"),
    [
        ("create batch", SpanKind.INTERNAL, {}, 1.0),
        ("llm_request", SpanKind.SERVER, {}, 0.0),
        ("POST", SpanKind.SERVER, {"http.request.method": "POST"}, 1.0),
        ("GET", SpanKind.SERVER, {"http.request.method": "GET"}, 0.25),
    ],
)
def test_root_spans_that_nobody_asked_for_are_rare(name: str, kind: SpanKind, attributes: Any, share: float) -> None:
    traced, exporter = telemetry(0.25)
    for _ in range(2000):
        traced.tracer.start_span(name, kind=kind, attributes=attributes).end()
    traced.close()
    assert len(exporter.get_finished_spans()) == pytest.approx(2000 * share, abs=100 if 0 < share < 1 else 0)


def test_parked_record_is_an_error_in_the_trace_that_its_letter_goes_on_in() -> None:
    traced, exporter = telemetry(0.0)
    sampled, unsampled = (f"00-{'a' * 32}-{'b' * 16}-{flags}" for flags in ("01", "00"))
    for offset, headers in enumerate(
        ([("traceparent", sampled.encode())], [("traceparent", unsampled.encode())], None)
    ):
        traced.parked("intake", 2, offset, "unreadable", headers)
    traced.close()

    spans = exporter.get_finished_spans()
    assert [span.attributes["messaging.kafka.offset"] for span in spans if span.attributes] == [0, 1, 2]
    assert all(span.status.status_code is StatusCode.ERROR for span in spans)
    assert [f"{span.context.trace_id:032x}" == "a" * 32 for span in spans] == [True, False, False]
    assert [len(span.links) for span in spans] == [0, 1, 0]


def test_last_traceparent_of_a_record_counts() -> None:
    assert traceparent_in(None) is None
    assert traceparent_in([("traceparent", b"one"), ("x", b"y"), ("traceparent", b"two")]) == "two"
    ids = f"00-{'a' * 32}-{'b' * 16}"
    assert [is_sampled(f"{ids}-{flags}") for flags in ("00", "01", "03")] == [False, True, True]
    assert not any(map(is_sampled, (None, "", "garbage", f"00-{'0' * 32}-{'b' * 16}-01", f"ff{ids[2:]}-01")))
    assert not any(map(is_sampled, (f"{ids}-01-x", f"{ids[:36]}{'0' * 16}-01", f"{ids}-01\n", f" {ids}-01")))
    later = f"01{ids[2:]}-01-"
    assert is_sampled(later + "x" * 256) and not is_sampled(later + "x" * 257)


@given(
    st.from_regex(
        r"(00|01|fe|ff|0G)-(0{32}|[0-9a-f]{32}|[0-9A-F]{31}g)-(0{16}|[0-9a-f]{16})-[0-9a-f]{2}(-x|-|x)?", fullmatch=True
    )
)
def test_traceparent_is_read_as_the_client_reads_it(traceparent: str) -> None:
    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())
    theirs = get_current_span(context).get_span_context()
    assert (span_context(traceparent) or INVALID_SPAN_CONTEXT) == theirs
    assert is_sampled(traceparent) == (theirs.is_valid and theirs.trace_flags.sampled)


@given(st.text(alphabet="0f-\n", max_size=60))
def test_what_is_no_traceparent_is_not_sampled(text: str) -> None:
    assert span_context(text) is None and not is_sampled(text)


def test_group_that_was_not_sent_is_an_error() -> None:
    traced, exporter = telemetry(1.0)
    with pytest.raises(OSError, match="away"), traced.records("send", "t", parents(traced, 1), 1):
        raise OSError("away")
    traced.close()
    [span] = [span for span in exporter.get_finished_spans() if span.name == "send t"]
    assert span.status.status_code is StatusCode.ERROR and (span.attributes or {})["error.type"] == "OSError"


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
