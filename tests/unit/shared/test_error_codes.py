"""Why lines failed, in one word."""

import json
from typing import Any

import pytest

from shared.error_codes import CODES_MAX, OTHER, add_codes, error_code_of, error_code_of_line
from shared.identifiers import request_id
from shared.openai_batch import answered_line, error_envelope, unanswered_line


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (error_envelope("m", code="context_length_exceeded"), "context_length_exceeded"),
        (error_envelope("m", kind="server_error"), "server_error"),
        ({"error": {"code": 400}}, "400"),
        ({"error": {"code": "ä" * 100}}, "?" * 64),
        ({"error": None}, "http_500"),
        ({"detail": "x"}, "http_500"),
        ([], "http_500"),
    ],
)
def test_code_of_an_answer_and_of_its_line_are_the_same(body: Any, code: str) -> None:
    raw = json.dumps(body).encode()

    assert error_code_of(500, raw) == code
    if isinstance(body, dict):
        line = answered_line(request_id="r", custom_id="c", status=500, body=raw)
        assert error_code_of_line(line) == code


def test_line_without_an_answer_has_its_own_code() -> None:
    line = unanswered_line(answer_id=request_id("b", 0), custom_id="c", code="worker_killed", message="m")

    assert error_code_of_line(line) == "worker_killed"
    assert error_code_of_line(b"{") == OTHER


def test_codes_beyond_the_first_are_counted_together() -> None:
    counts: dict[str, int] = {}
    for number in range(CODES_MAX + 5):
        add_codes(counts, {f"code-{number}": 2})
    add_codes(counts, {"code-0": 1})

    assert len(counts) == CODES_MAX + 1
    assert counts[OTHER] == 10
    assert counts["code-0"] == 3
