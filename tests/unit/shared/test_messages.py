"""Headers and facets survive the wire; what does not fit the contract is refused with a reason."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.messages import BatchCreated, BatchDispatched, LineProblem, UnreadableRecord, Usage, decode_facet, encode
from shared.record_headers import (
    CompletionHeaders,
    RequestHeaders,
    completion_headers,
    read_completion_headers,
    read_request_headers,
    request_headers,
)

counts = st.integers(0, 2**40)
usages = st.builds(Usage, counts, counts, counts, counts)
traceparents = st.none() | st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


@given(
    st.builds(
        RequestHeaders,
        batch_id=st.text(min_size=1),
        line=counts,
        total=counts,
        deadline_s=counts,
        attempt=st.integers(1, 9),
        tenant=st.text(min_size=1),
        traceparent=traceparents,
    )
)
def test_request_headers_round_trip(headers: RequestHeaders) -> None:
    assert read_request_headers(request_headers(headers)) == headers


@given(line=st.integers(0, 10**6), beyond=st.integers(1, 100), ok=st.booleans(), usage=usages, trace=traceparents)
def test_completion_headers_round_trip(line: int, beyond: int, ok: bool, usage: Usage, trace: str | None) -> None:
    headers = CompletionHeaders(
        kind="line", batch_id="b", line=line, total=line + beyond, succeeded=ok, usage=usage, traceparent=trace
    )

    assert read_completion_headers(completion_headers(headers)) == headers


@pytest.mark.parametrize("kind", ["cancel", "deadline"])
def test_end_records_round_trip(kind: str) -> None:
    headers = CompletionHeaders(kind=kind, batch_id="b", total=7)

    assert read_completion_headers(completion_headers(headers)) == headers


GOOD = dict(completion_headers(CompletionHeaders(kind="line", batch_id="b", line=1, total=3)))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": b"other"},
        {"kind": None},
        {"batch": b"\xff"},
        {"line": b"x"},
        {"line": b"3"},
        {"line": b"-1"},
        {"usage": b"1,x,0,0"},
        {"total": None},
    ],
)
def test_foreign_completion_headers_are_refused(change: dict[str, bytes | None]) -> None:
    headers = [(name, value) for name, value in (GOOD | change).items() if value is not None]

    with pytest.raises(UnreadableRecord):
        read_completion_headers(headers)


@pytest.mark.parametrize("headers", [[], [("batch", b"b")], [("batch", b"\xff"), ("line", b"1")]])
def test_foreign_request_headers_are_refused(headers: list[tuple[str, bytes]]) -> None:
    with pytest.raises(UnreadableRecord):
        read_request_headers(headers)


def test_facets_round_trip_and_tolerate_new_fields() -> None:
    facet = BatchDispatched(failed_at=5, errors=(LineProblem(code="c", message="m", line=1),))
    value = msgspec.json.decode(encode(facet)) | {"field_of_the_future": 1}

    assert decode_facet(msgspec.json.encode(value)) == facet


def test_unknown_schema_version_is_not_guessed() -> None:
    created = BatchCreated(
        id="b",
        endpoint="e",
        input_file_id="f",
        completion_window="24h",
        created_at=1,
        expires_at=2,
        schema_version=99,
    )

    with pytest.raises(UnreadableRecord, match="99"):
        decode_facet(encode(created))
    with pytest.raises(UnreadableRecord):
        decode_facet(b"{}")
