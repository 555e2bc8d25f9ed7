"""Spans on the wire: read by the client's own messages, they are what the client would have written."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind

from shared.otlp_spans import SpanEncoder
from shared.record_spans import EndedSpan, RecordSpan
from shared.telemetry import SCOPE
from tests.memory_spans import readable

RESOURCE = Resource({"service.name": "headrace-test", "service.version": "1"}, "https://opentelemetry.io/schemas/1")
ENCODER = SpanEncoder(RESOURCE, SCOPE)

TEXTS = st.text(max_size=300)
VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.lists(TEXTS, max_size=3),
)
ATTRIBUTES = st.dictionaries(st.text(min_size=1, max_size=200), VALUES, max_size=5)


def _ids(num_digits: int) -> st.SearchStrategy[str]:
    return st.integers(1, 16**num_digits - 1).map(lambda number: f"{number:0{num_digits}x}")


TRACEPARENTS = st.builds(lambda trace, span, flags: f"00-{trace}-{span}-{flags}", _ids(32), _ids(16), _ids(2))
NOT_VALID = st.sampled_from(["", "00-0-0-01", f"00-{'0' * 32}-{'1' * 16}-01", "x" * 400])
SPANS = st.builds(
    RecordSpan,
    name=TEXTS,
    kind=st.sampled_from(SpanKind),
    trace_id=_ids(32),
    span_id=_ids(16),
    parent=st.none() | TRACEPARENTS,
    attributes=ATTRIBUTES.map(lambda found: lambda: dict(found)),
    links=st.lists(TRACEPARENTS | NOT_VALID, max_size=3).map(tuple),
    began_ns=st.integers(0, 2**64 - 1),
)
ENDED = st.builds(
    EndedSpan,
    span=SPANS,
    attributes=ATTRIBUTES,
    error=st.none() | st.text(min_size=1, max_size=20),
    ended_ns=st.integers(0, 2**64 - 1),
)


@given(st.lists(ENDED, min_size=1, max_size=4))
def test_spans_are_written_as_the_client_writes_them(spans: list[EndedSpan]) -> None:
    ours = ExportTraceServiceRequest.FromString(ENCODER.request(spans))

    assert ours == encode_spans([readable(span, RESOURCE) for span in spans])


def test_two_requests_in_a_row_are_one() -> None:
    one, other = _span("one"), _span("other")
    both = ENCODER.request([one]) + encode_spans([readable(other, RESOURCE)]).SerializeToString()

    read = ExportTraceServiceRequest.FromString(both)
    assert [_names(group) for group in read.resource_spans] == [["one"], ["other"]]
    assert ENCODER.request([]) == b""


def test_values_that_the_wire_cannot_say_become_text() -> None:
    read = _read_attributes(large=2**70, alone="\ud800", none=None, flag=True, half=0.5)

    assert read["large"].string_value == str(2**70)
    assert read["alone"].string_value == "?"
    assert read["none"].string_value == "None"
    assert read["flag"].bool_value is True
    assert read["half"].double_value == 0.5


def _span(name: str, attributes: dict[str, Any] | None = None) -> EndedSpan:
    begun = RecordSpan(name, SpanKind.CONSUMER, "1" * 32, "2" * 16, None, lambda: attributes or {}, (), 1)
    return EndedSpan(begun, {}, None, 2)


def _read_attributes(**attributes: Any) -> dict[str, Any]:
    read = ExportTraceServiceRequest.FromString(ENCODER.request([_span("x", attributes)]))
    return {pair.key: pair.value for pair in read.resource_spans[0].scope_spans[0].spans[0].attributes}


def _names(group: Any) -> list[str]:
    return [span.name for scope in group.scope_spans for span in scope.spans]
