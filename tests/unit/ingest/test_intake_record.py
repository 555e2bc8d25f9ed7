"""What a record of the intake asks for, for every record that anybody may write."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.admission.batch_record import BatchEvent
from services.ingest.admission.intake_headers import DeadLetter
from services.ingest.admission.intake_record import Admitted, IntakeRules, Refused, read_intake
from shared.record_headers import read_request_headers, request_headers

NOW_S = 1_800_000_000.0
RULES = IntakeRules(
    tenant="default",
    believes_tenant_header=False,
    reply_topics=frozenset({"answers"}),
    line_bytes_max=10_000,
    window_s=3600,
    window_s_max=7200,
    endpoints=frozenset({"/v1/chat/completions", "/v1/embeddings"}),
    pool_of={"echo": "echo", "adapter": "echo"}.get,
)
PARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def line(**more: Any) -> bytes:
    body = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}]}
    members = {"custom_id": "c1", "method": "POST", "url": "/v1/chat/completions", "body": body} | more
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode()


def read(value: bytes | None, rules: IntakeRules = RULES, **headers: str | None) -> Admitted | Refused:
    found = read_any(value, rules, **headers)
    assert not isinstance(found, BatchEvent)
    return found


def read_any(value: bytes | None, rules: IntakeRules = RULES, **headers: str | None) -> Admitted | Refused | BatchEvent:
    named = [
        (name if name == "ce_type" else name.rstrip("_").replace("_", "-"), text.encode() if text is not None else None)
        for name, text in headers.items()
    ]
    return read_intake(value, named, rules, NOW_S)


def test_value_alone_is_a_request() -> None:
    found = read(line())

    assert isinstance(found, Admitted)
    assert found.pool == "echo"
    assert found.headers.request == "c1"
    assert found.headers.is_single
    assert found.headers.tenant == "default"
    assert found.headers.deadline_s == NOW_S + 3600
    assert found.headers.request_class == "interactive"
    assert found.headers.reply_topic == ""
    assert found.headers.traceparent is None


def test_line_of_a_batch_is_one_line() -> None:
    pretty = json.dumps(json.loads(line()), indent=2).replace("\n", "\r\n").encode()
    found = read_any(pretty, batch_id="job")
    assert isinstance(found, BatchEvent)
    assert (found.name, found.custom_id) == ("job", "c1")
    assert len(found.value.splitlines()) == 1
    assert json.loads(found.value) == json.loads(line())


@pytest.mark.parametrize(
    ("value", "headers", "kind"),
    [
        (b'{"type": "batch-open", "batch_id": "job"}', {}, "batch-open"),
        (b'{"type": "batch-close", "batch_id": "job", "count": 3}', {}, "batch-close"),
        (None, {"batch_id": "job", "type": "batch-close"}, "batch-close"),
        (b"", {"batch_id": "job", "ce_type": "com.example.batch-open"}, "batch-open"),
        (line(batch_id="job", type="batch-close"), {}, "line"),
        (line(), {"batch_id": "job", "type": "something-else"}, "line"),
    ],
)
def test_record_says_what_it_is_to_its_batch(value: bytes | None, headers: dict[str, str], kind: str) -> None:
    found = read_any(value, RULES, **headers)
    assert isinstance(found, BatchEvent)
    assert (found.kind, found.name, found.tenant) == (kind, "job", "default")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b'{"type": "batch-close", "batch_id": "job", "count": "many"}', "invalid_type"),
        (b'{"type": "batch-open", "batch_id": "job", "completion_window": "soon"}', "invalid_value"),
        (b'{"type": "batch-open", "batch_id": "job", "metadata": [1]}', "invalid_type"),
        (b'{"type": "batch-open", "batch_id": "job", "roll_seconds": -1}', "integer_below_min_value"),
    ],
)
def test_control_record_that_is_wrong_is_answered_under_the_name(value: bytes, code: str) -> None:
    found = read_any(value)
    assert isinstance(found, Refused)
    assert (found.headers.request, found.code) == ("job", code)


@pytest.mark.parametrize(
    ("value", "headers"),
    [
        (b"{}", {"batch_id": "job"}),
        (None, {"batch_id": "job"}),
        (b'{"type": "x", "batch_id": 7}', {}),
        (None, {"type": "batch-close"}),
        (b'{"custom_id": "c"}', {"batch_id": "j" * 600}),
    ],
)
def test_record_of_a_batch_in_which_nobody_is_named_is_a_dead_letter(
    value: bytes | None, headers: dict[str, str]
) -> None:
    with pytest.raises(DeadLetter):
        read_any(value, RULES, **headers)


def test_headers_say_more() -> None:
    deadline_ms = str(int((NOW_S + 60) * 1000))
    found = read(
        line(),
        request_id="r9",
        deadline_ms=deadline_ms,
        reply_topic="answers",
        traceparent=PARENT,
        schema="1",
        unheard="of",
        class_="batch",
    )

    assert isinstance(found, Admitted)
    headers = found.headers
    assert (headers.request, headers.deadline_s, headers.request_class) == ("r9", NOW_S + 60, "batch")
    assert (headers.reply_topic, headers.traceparent) == ("answers", PARENT)


@pytest.mark.parametrize(
    ("traceparent", "tracestate", "handed_on"),
    [
        (PARENT, "rojo=1,congo=2", (PARENT, "rojo=1,congo=2")),
        (PARENT, "x" * 513, (PARENT, "")),
        (PARENT, "two\nlines", (PARENT, "")),
        (None, "rojo=1", (None, "")),
        (f"00-{'0' * 32}-{'b' * 16}-01", "rojo=1", (None, "")),
        (f"{PARENT}-later", "rojo=1", (None, "")),
        (f"cc{PARENT[2:]}-later", "rojo=1", (f"cc{PARENT[2:]}-later", "rojo=1")),
    ],
)
def test_trace_is_handed_on_as_far_as_it_is_one(
    traceparent: str | None, tracestate: str, handed_on: tuple[str | None, str]
) -> None:
    found = read(line(), traceparent=traceparent, tracestate=tracestate)

    assert isinstance(found, Admitted)
    assert (found.headers.traceparent, found.headers.tracestate) == handed_on
    assert read_request_headers(request_headers(found.headers)) == found.headers


def test_adapter_goes_to_the_pool_of_its_base() -> None:
    found = read(line(body={"model": "adapter", "messages": []}))

    assert isinstance(found, Admitted) and found.pool == "echo"


def test_cloud_event_is_named_by_its_id() -> None:
    headers = [("ce_id", b"e1"), ("ce_source", b"/shop"), ("ce_type", b"x"), ("ce_specversion", b"1.0")]

    found = read_intake(line(), headers, RULES, NOW_S)
    both = read_intake(line(), [*headers, ("request-id", b"r1")], RULES, NOW_S)

    assert isinstance(found, Admitted) and found.headers.request == "e1"
    assert isinstance(both, Admitted) and both.headers.request == "r1"


def test_tenant_is_the_topics_unless_headers_are_believed() -> None:
    assert read(line(), tenant="other").headers.tenant == "default"
    believed = replace(RULES, believes_tenant_header=True)
    assert read(line(), believed, tenant="other").headers.tenant == "other"
    assert read(line(), believed).headers.tenant == "default"
    with pytest.raises(DeadLetter, match="not a name"):
        read(line(), believed, tenant="a/b")


def test_same_id_of_two_tenants_is_two_requests() -> None:
    believed = replace(RULES, believes_tenant_header=True)

    assert read(line(), believed, tenant="a").headers.answer_id != read(line(), believed, tenant="b").headers.answer_id


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (line(url=None), "missing_required_parameter"),
        (line(url="/v1/images"), "invalid_url"),
        (line(url=7), "invalid_type"),
        (line(method="GET"), None),
        (line(body="text"), "invalid_type"),
        (line(body={"messages": []}), "invalid_request"),
        (line(body={"model": "unknown", "messages": []}), "model_not_found"),
        (line(body={"model": "echo"}), "invalid_request"),
        (line(body={"model": "echo", "messages": [], "stream": True}), "streaming_unsupported"),
    ],
)
def test_bad_request_with_an_id_is_answered(value: bytes, code: str | None) -> None:
    found = read(value, request_id="r1")

    assert isinstance(found, Refused)
    assert found.headers.request == "r1"
    assert found.message
    if code is not None:
        assert found.code == code


def test_id_in_the_line_is_enough_to_be_answered() -> None:
    for value in (line(url="/v1/images"), line(body=None)):
        found = read(value)

        assert isinstance(found, Refused)
        assert (found.headers.request, found.custom_id) == ("c1", "c1")


@pytest.mark.parametrize(
    ("header", "value", "code"),
    [
        ("class", "urgent", "invalid_value"),
        ("deadline-ms", "tomorrow", "invalid_value"),
        ("deadline-ms", "-5", "invalid_value"),
        ("deadline-ms", str(int(NOW_S * 1000) - 1000), "request_expired"),
        ("reply-topic", "headrace.completions", "reply_topic_not_allowed"),
    ],
)
def test_bad_header_is_answered_on_the_results_topic(header: str, value: str, code: str) -> None:
    found = read_intake(line(), [(header, value.encode())], RULES, NOW_S)

    assert isinstance(found, Refused)
    assert found.code == code
    assert found.headers.reply_topic == ""


def test_deadline_is_never_later_than_the_longest_window() -> None:
    assert read(line(), deadline_ms="9" * 30).headers.deadline_s == NOW_S + 7200


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "unreadable"),
        (b"", "unreadable"),
        (b"\xff\xfe", "unreadable"),
        (b"not json", "unreadable"),
        (b"[1]", "unreadable"),
        (b"[" * 100_000, "too_large"),
        (b'{"custom_id": ' + b"[" * 4_000 + b"]" * 4_000 + b"}", "unreadable"),
        (line(custom_id=None), "unreadable"),
        (line(custom_id=5), "unreadable"),
        (line(custom_id=""), "unreadable"),
        (line(custom_id="x" * 600), "unreadable"),
        (line(padding="x" * 10_000), "too_large"),
    ],
)
def test_record_of_which_nobody_can_be_told_is_a_dead_letter(value: bytes | None, error: str) -> None:
    with pytest.raises(DeadLetter) as caught:
        read(value)

    assert caught.value.error == error


def test_unknown_schema_is_a_dead_letter_even_if_the_rest_is_fine() -> None:
    with pytest.raises(DeadLetter) as caught:
        read(line(), schema="2", request_id="r1")

    assert caught.value.error == "unknown_schema"


def test_headers_without_value_and_foreign_ones_in_any_bytes_are_ignored() -> None:
    found = read_intake(line(), [("deadline-ms", None), ("binary", b"\xff")], RULES, NOW_S)

    assert isinstance(found, Admitted)
    with pytest.raises(DeadLetter, match="request-id is not UTF-8"):
        read_intake(line(), [("request-id", b"\xff")], RULES, NOW_S)


@given(
    value=st.one_of(st.none(), st.binary(max_size=200), st.just(line()), st.text().map(str.encode)),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["request-id", "deadline-ms", "class", "schema", "reply-topic", "traceparent", "x"]),
            st.one_of(st.none(), st.binary(max_size=30), st.sampled_from([b"1", b"batch", b"answers"])),
        ),
        max_size=6,
    ),
)
def test_every_record_has_an_outcome(value: bytes | None, headers: list[tuple[str, bytes | None]]) -> None:
    try:
        found = read_intake(value, headers, RULES, NOW_S)
    except DeadLetter:
        return
    if isinstance(found, BatchEvent):
        assert found.name
        return
    assert found.headers.request
    if isinstance(found, Refused):
        assert found.code and found.message
