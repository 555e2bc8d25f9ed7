"""Output and error lines: one line of ASCII each, the answer's JSON unchanged."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.identifiers import request_id
from shared.openai_batch import answered_line, decode_request_line, to_ascii_json, unanswered_line

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(body=st.dictionaries(st.text(), values), custom_id=st.text(), indent=st.sampled_from([None, 1]))
def test_answer_is_spliced_in_unchanged(body: dict[str, object], custom_id: str, indent: int | None) -> None:
    raw = json.dumps(body, ensure_ascii=False, indent=indent).encode("utf-8", "surrogatepass")
    try:
        raw.decode()
    except UnicodeDecodeError:
        return  # lone surrogates are not UTF-8, hence not JSON

    line = answered_line(request_id="r", custom_id=custom_id, status=200, body=raw)

    assert line.isascii()
    assert len(line.decode().splitlines()) == 1
    assert line.endswith(b"\n")
    entry = json.loads(line)
    assert entry["response"] == {"status_code": 200, "request_id": "r", "body": body}
    assert entry["custom_id"] == custom_id
    assert entry["error"] is None


def test_line_has_the_form_of_the_real_service() -> None:
    line = answered_line(request_id="batch_req_1", custom_id="c", status=200, body=b"{}")

    response = b'{"status_code": 200, "request_id": "batch_req_1", "body": {}}'
    assert line == b'{"id": "batch_req_1", "custom_id": "c", "response": %b, "error": null}\n' % response


def test_line_separators_inside_strings_are_escaped() -> None:
    assert to_ascii_json('{"a": "x\u2028y\u0085é😀"}'.encode()) == rb'{"a": "x\u2028y\u0085\u00e9\ud83d\ude00"}'


def test_unanswered_line_has_no_response() -> None:
    entry = json.loads(unanswered_line(answer_id=request_id("b", 0), custom_id="ü", code="batch_expired", message="m"))

    assert entry["response"] is None
    assert entry["error"] == {"code": "batch_expired", "message": "m"}
    assert entry["custom_id"] == "ü"


def test_request_line_keeps_the_body_as_it_was_written() -> None:
    raw = b'{"custom_id":"1","method":"POST","url":"/v1/x","body":{"n": 123456789012345678901234567890, "n": 1.0}}'

    assert bytes(decode_request_line(raw).body) == b'{"n": 123456789012345678901234567890, "n": 1.0}'
    with pytest.raises(msgspec.MsgspecError):
        decode_request_line(b"{}")
