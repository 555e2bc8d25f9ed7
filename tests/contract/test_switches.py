"""Every switch away from OpenAI's behaviour, in one stack."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.stack import Stack, chat_line, chat_lines, result_lines, submit, wait_for_end

SWITCHES = {
    "HEADRACE_CONTRACT__ERROR_LINES": "duplicated",
    "HEADRACE_CONTRACT__UNKNOWN_INPUT_FILE": "failed",
    "HEADRACE_CONTRACT__UNKNOWN_MODEL": "per_line",
    "HEADRACE_CONTRACT__COUNTS": "sum",
    "HEADRACE_CONTRACT__WINDOWS": "free",
    "HEADRACE_CONTRACT__SEVERAL_MODELS": "true",
    "HEADRACE_INGEST__BATCH_LINES_MAX": "60",
    "HEADRACE_INGEST__BATCH_FILE_BYTES_MAX": "50000",
    "HEADRACE_INGEST__EMBEDDING_INPUTS_MAX": "5",
    "HEADRACE_INFERENCE__ECHO__LATENCY_PER_TOKEN_S": "0.01",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    arguments = ["--engine", "echo", "--kafka", "memory", "--model", "echo", "--model", "other"]
    with Stack(tmp_path_factory.mktemp("switches"), arguments, SWITCHES) as started:
        yield started


@pytest.fixture
def client(stack: Stack) -> OpenAI:
    return stack.client()


def test_lines_of_several_models_go_to_their_workers_and_unknown_ones_fail_alone(client: OpenAI) -> None:
    models = ["echo", "other", "nobody"]
    lines = [chat_line(str(n), models[n % 3], f"to {n}") for n in range(30)]

    batch = wait_for_end(client, submit(client, lines).id)

    assert (batch.status, batch.model) == ("completed", None)
    output, errors = result_lines(client, batch.output_file_id), result_lines(client, batch.error_file_id)
    assert {entry["response"]["body"]["model"] for entry in output} == {"echo", "other"}
    assert [int(entry["custom_id"]) % 3 for entry in errors] == [2] * 10
    for entry in errors:
        assert entry["response"]["status_code"] == 404
        assert entry["error"]["code"] == entry["response"]["body"]["error"]["code"] == "model_not_found"
        assert "nobody" in entry["error"]["message"]
    assert batch.x_headrace["top_errors"] == [{"code": "model_not_found", "count": 10}]


def test_file_of_unknown_models_alone_is_answered_too(client: OpenAI) -> None:
    batch = wait_for_end(client, submit(client, chat_lines(3, "nobody")).id)

    assert (batch.status, batch.model, batch.request_counts.failed) == ("completed", "nobody", 3)


def test_unknown_input_file_makes_a_batch_that_fails(client: OpenAI) -> None:
    batch = client.batches.create(
        input_file_id="file-unknown", endpoint="/v1/chat/completions", completion_window="24h"
    )

    ended = wait_for_end(client, batch.id)

    assert ended.status == "failed"
    assert [(e.code, e.param, e.line) for e in ended.errors.data] == [("invalid_request", "file_id", None)]
    assert "file-unknown" in ended.errors.data[0].message


def create(client: OpenAI, lines: list[dict[str, Any]], window: Any, endpoint: Any = "/v1/chat/completions") -> Any:
    content = b"\n".join(json.dumps(line).encode() for line in lines)
    file = client.files.create(file=content, purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window=window)


def test_free_window_expires_and_counts_add_up(client: OpenAI) -> None:
    slow = [chat_line(str(n), "echo", "word " * (1 if n < 5 else 500)) for n in range(20)]

    batch = wait_for_end(client, create(client, slow, "3s").id)

    assert (batch.status, batch.completion_window) == ("expired", "3s")
    assert batch.expires_at == batch.created_at + 3
    counts = batch.request_counts
    assert (counts.completed, counts.failed) == (5, 15)
    assert batch.x_headrace["expired"] == 15
    codes = {entry["error"]["code"] for entry in result_lines(client, batch.error_file_id)}
    assert codes == {"batch_expired"}


@pytest.mark.parametrize("window", ["7d", "30m", "6min", "48h"])
def test_windows_that_are_in_use(client: OpenAI, window: str) -> None:
    batch = create(client, chat_lines(1, "echo"), window)

    assert batch.completion_window == window
    assert wait_for_end(client, batch.id).status == "completed"


def test_limits_are_settings(client: OpenAI) -> None:
    many = wait_for_end(client, create(client, chat_lines(61, "echo"), "24h").id)
    assert [error.code for error in many.errors.data] == ["too_many_requests"]
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "echo", "input": ["x"] * 6}}
    inputs = wait_for_end(client, create(client, [line], "24h", "/v1/embeddings").id)
    assert [error.code for error in inputs.errors.data] == ["too_many_inputs"]
    with pytest.raises(Exception, match="File is too large"):
        client.files.create(file=b" " * 50_001, purpose="batch")
