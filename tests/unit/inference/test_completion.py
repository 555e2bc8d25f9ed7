"""Answers become lines; usage is read in both spellings."""

import json

import pytest

from services.inference import completion
from services.inference.completion import answered, completion_headers_for, unanswered
from services.inference.engine import Answer
from shared.messages import Usage
from shared.record_headers import RequestHeaders
from shared.usage import usage_of

HEADERS = RequestHeaders(batch_id="batch_1", line=4, total=9, deadline_s=0)


def test_success_carries_its_usage() -> None:
    body = b'{"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}'

    found = answered(HEADERS, "c", "r", Answer(200, body))

    assert found.succeeded
    assert found.usage == Usage(input_tokens=3, output_tokens=2)
    headers = completion_headers_for(HEADERS, found)
    assert (headers.kind, headers.batch_id, headers.line, headers.total) == ("line", "batch_1", 4, 9)


def test_refusal_is_an_error_line_with_the_engines_body() -> None:
    found = answered(HEADERS, "c", "r", Answer(400, b'{"error": {"message": "no"}}'))

    assert not found.succeeded
    assert json.loads(found.value)["response"]["status_code"] == 400


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b'"x"', b"{"])
def test_answer_that_is_no_object_is_an_error_line(body: bytes) -> None:
    found = answered(HEADERS, "c", "r", Answer(200, body))

    assert not found.succeeded
    assert json.loads(found.value)["error"]["code"] == "invalid_response"


def test_answer_too_large_for_a_line_is_an_error_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "RESULT_BYTES_MAX", 1_000)
    body = json.dumps({"text": "x" * 1_000}).encode()

    found = answered(HEADERS, "c", "r", Answer(200, body))

    assert json.loads(found.value)["error"]["code"] == "response_too_large"
    assert not found.succeeded


def test_usage_of_responses_has_details() -> None:
    body = {
        "usage": {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 6,
            "output_tokens_details": {"reasoning_tokens": 5},
        }
    }

    assert usage_of(json.dumps(body).encode()) == Usage(10, 6, 4, 5)


@pytest.mark.parametrize("body", [b"{}", b'{"usage": null}'])
def test_absent_usage_is_zero(body: bytes) -> None:
    assert usage_of(body) == Usage()


@pytest.mark.parametrize("body", [b'{"usage": 1}', b'{"usage": {"prompt_tokens": "1"}}'])
def test_odd_usage_counts_as_none_and_is_an_answer_all_the_same(body: bytes) -> None:
    assert usage_of(body) is None

    found = answered(HEADERS, "c", "r", Answer(200, body))
    assert found.succeeded
    assert found.usage == Usage()


def test_unanswered_says_why() -> None:
    found = unanswered(HEADERS, "c", "batch_expired", "late")

    assert json.loads(found.value)["error"] == {"code": "batch_expired", "message": "late"}
