"""The rules of the wire about states, input lines and result lines, one test each; the number is openai-contract's."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from tests.e2e.stack import chat_line, wait_for_end

ENDPOINT = "/v1/chat/completions"
NO_COUNTS = {"total": 0, "completed": 0, "failed": 0}
REFUSED_LINE = {**chat_line("refused", "echo", "x"), "body": {"model": "echo", "messages": [{}]}}


def start(http: httpx2.Client, content: bytes, endpoint: str = ENDPOINT) -> dict[str, Any]:
    file = http.post("/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"}).json()
    wanted = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h"}
    created: dict[str, Any] = http.post("/batches", json=wanted).json()
    return created


def run(http: httpx2.Client, client: OpenAI, content: bytes, endpoint: str = ENDPOINT) -> dict[str, Any]:
    """The batch object at its end, as JSON."""
    batch_id = start(http, content, endpoint)["id"]
    wait_for_end(client, batch_id)
    found: dict[str, Any] = http.get(f"/batches/{batch_id}").json()
    return found


def jsonl(*lines: Mapping[str, Any]) -> bytes:
    return b"\n".join(json.dumps(line).encode() for line in lines)


def content_of(http: httpx2.Client, file_id: str) -> str:
    return http.get(f"/files/{file_id}/content").content.decode()


def counts_of(batch: Mapping[str, Any]) -> dict[str, int]:
    return {name: batch["request_counts"][name] for name in NO_COUNTS}


def test_2_1_stamps_and_nulls_of_a_new_batch(http: httpx2.Client) -> None:
    batch = start(http, jsonl(chat_line("a", "echo", "x")))

    assert batch["status"] == "validating"
    assert batch["expires_at"] == batch["created_at"] + 86_400
    assert counts_of(batch) == NO_COUNTS
    stamps = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
    assert {batch[f"{name}_at"] for name in stamps} == {None}
    assert [batch[name] for name in ("errors", "model", "output_file_id", "error_file_id", "metadata")] == [None] * 5
    assert batch["usage"]["total_tokens"] == 0


def test_2_1_stamps_of_a_completed_batch_follow_each_other(http: httpx2.Client, client: OpenAI) -> None:
    batch = run(http, client, jsonl(chat_line("a", "echo", "x")))

    stamps = [batch[f"{name}_at"] for name in ("created", "in_progress", "finalizing", "completed")]
    assert stamps == sorted(stamps)
    assert all(type(stamp) is int for stamp in stamps)
    assert [batch[f"{name}_at"] for name in ("failed", "expired", "cancelling", "cancelled")] == [None] * 4
    assert batch["model"] == "echo"
    usage = batch["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert (usage["input_tokens_details"], usage["output_tokens_details"]) == (
        {"cached_tokens": 0},
        {"reasoning_tokens": 0},
    )


def test_2_2_result_files_are_named_after_their_batch(http: httpx2.Client, client: OpenAI) -> None:
    batch = run(http, client, jsonl(chat_line("a", "echo", "x"), REFUSED_LINE))

    for kind in ("output", "error"):
        file = http.get(f"/files/{batch[f'{kind}_file_id']}").json()
        assert (file["purpose"], file["filename"]) == ("batch_output", f"{batch['id']}_{kind}.jsonl")
        assert file["expires_at"] == file["created_at"] + 30 * 86_400
        assert file["bytes"] == len(content_of(http, file["id"]).encode())


def test_3_clean_batch_has_no_error_file(http: httpx2.Client, client: OpenAI) -> None:
    batch = run(http, client, jsonl(chat_line("a", "echo", "x")))

    assert (batch["status"], batch["error_file_id"]) == ("completed", None)
    assert counts_of(batch) == {"total": 1, "completed": 1, "failed": 0}


def test_3_batch_whose_lines_all_fail_is_completed(http: httpx2.Client, client: OpenAI) -> None:
    batch = run(http, client, jsonl(REFUSED_LINE))

    assert (batch["status"], batch["output_file_id"]) == ("completed", None)
    assert batch["error_file_id"]
    assert counts_of(batch) == {"total": 1, "completed": 0, "failed": 1}


def test_3_failed_batch_has_errors_and_nothing_else(http: httpx2.Client, client: OpenAI) -> None:
    batch = run(http, client, b"no json")

    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("failed", None, None)
    assert counts_of(batch) == NO_COUNTS
    assert batch["errors"]["object"] == "list"
    assert (batch["in_progress_at"], batch["completed_at"]) == (None, None)
    assert batch["failed_at"] >= batch["created_at"]


def test_3_cancelled_batch_keeps_what_was_done_and_does_not_count_the_rest_as_failed(
    http: httpx2.Client, client: OpenAI
) -> None:
    lines = [chat_line("quick", "echo", "x"), *(chat_line(f"slow-{n}", "echo", "slow " * 2_000) for n in range(300))]
    batch_id = start(http, jsonl(*lines))["id"]
    deadline = time.monotonic() + 30
    while not http.get(f"/batches/{batch_id}").json()["request_counts"]["completed"]:
        assert time.monotonic() < deadline, "no line completed in 30 s"
        time.sleep(0.05)
    cancelling = http.post(f"/batches/{batch_id}/cancel").json()
    again = http.post(f"/batches/{batch_id}/cancel")
    wait_for_end(client, batch_id)
    batch = http.get(f"/batches/{batch_id}").json()

    assert (cancelling["status"], cancelling["output_file_id"]) == ("cancelling", None)
    assert again.status_code == 200
    assert http.post(f"/batches/{batch_id}/cancel").json() == batch
    done = [json.loads(line)["custom_id"] for line in content_of(http, batch["output_file_id"]).splitlines()]
    not_run = [json.loads(line) for line in content_of(http, batch["error_file_id"]).splitlines()]
    assert counts_of(batch) == {"total": 301, "completed": len(done), "failed": 0}
    assert done + [line["custom_id"] for line in not_run] == [str(line["custom_id"]) for line in lines]
    assert {(line["error"]["code"], line["response"]) for line in not_run} == {("batch_cancelled", None)}
    assert batch["cancelled_at"] >= batch["cancelling_at"] == cancelling["cancelling_at"]


def test_3_cancel_of_a_batch_that_failed_is_refused(http: httpx2.Client, client: OpenAI) -> None:
    batch = run(http, client, b"no json")

    answer = http.post(f"/batches/{batch['id']}/cancel")

    assert answer.status_code == 409
    assert answer.json()["error"]["message"] == "Cannot cancel a batch with status 'failed'."


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in chat_line("a", "echo", "x").items() if name != key}


def with_body(**change: Any) -> dict[str, Any]:
    line = chat_line("a", "echo", "x")
    return line | {"body": {name: value for name, value in (line["body"] | change).items() if value is not ...}}


# A bad line, then the code, the param and the text of what the batch says of it.
BAD_LINES: dict[str, tuple[bytes, str, str | None, str]] = {
    "no json": (b"{", "invalid_json_line", None, "This line is not parseable as valid JSON."),
    **{
        f"no {key}": (jsonl(without(key)), "missing_required_parameter", key, f"Missing required parameter: '{key}'.")
        for key in ("custom_id", "method", "url", "body")
    },
    "another url": (
        jsonl(chat_line("a", "echo", "x") | {"url": "/v1/embeddings"}),
        "invalid_url",
        "url",
        "The URL provided for this request does not match the batch endpoint.",
    ),
    "unknown model": (
        jsonl(with_body(model="nobody")),
        "model_not_found",
        "body.model",
        "The provided model 'nobody' is not supported by the Batch API.",
    ),
    "streaming": (
        jsonl(with_body(stream=True)),
        "streaming_unsupported",
        "body.stream",
        "Chat Completions: Streaming is not supported in the Batch API.",
    ),
    "no model": (jsonl(with_body(model=...)), "invalid_request", "body.model", "Model parameter is required."),
    "no messages": (
        jsonl(with_body(messages=...)),
        "invalid_request",
        "body.messages",
        "Messages parameter is required.",
    ),
    "wrong method": (jsonl(chat_line("a", "echo", "x") | {"method": "GET"}), "invalid_value", "method", "*"),
    "no object": (b"[1]", "invalid_request", None, "*"),
    "custom_id of another type": (
        jsonl(chat_line("a", "echo", "x") | {"custom_id": 5}),
        "invalid_type",
        "custom_id",
        "*",
    ),
    "nul": (b"\0" + jsonl(chat_line("a", "echo", "x")), "invalid_json_line", None, "*"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_4_bad_line_is_named(http: httpx2.Client, client: OpenAI, case: str) -> None:
    bad, code, param, message = BAD_LINES[case]

    batch = run(http, client, jsonl(chat_line("good", "echo", "x")) + b"\n" + bad)

    (error,) = batch["errors"]["data"]
    assert list(error) == ["code", "message", "param", "line"]
    assert (error["code"], error["param"], error["line"]) == (code, param, 2)
    assert message in ("*", error["message"])


def test_4_repeated_custom_id_and_second_model_are_named(http: httpx2.Client, client: OpenAI) -> None:
    same, other = chat_line("a", "echo", "x"), chat_line("b", "other", "x")

    batch = run(http, client, jsonl(same, same, other))

    assert [(e["line"], e["code"], e["param"], e["message"]) for e in batch["errors"]["data"]] == [
        (
            2,
            "duplicate_custom_id",
            "custom_id",
            (
                "The custom_id 'a' for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch."
            ),
        ),
        (
            3,
            "mismatched_model",
            "body.model",
            (
                "The model 'other' for this request does not match the rest of the batch. "
                "Each batch must contain requests for a single model."
            ),
        ),
    ]


@pytest.mark.parametrize("content", [b"", b"\n\r\n\n", b"\xef\xbb\xbf"])
def test_4_file_without_a_line_is_empty(http: httpx2.Client, client: OpenAI, content: bytes) -> None:
    batch = run(http, client, content)

    (error,) = batch["errors"]["data"]
    message = "The input file is empty. Please ensure that the batch contains at least one request."
    assert (error["code"], error["line"], error["param"], error["message"]) == ("empty_file", None, None, message)


@pytest.mark.parametrize(
    "frame",
    [b"%s\n", b"%s", b"%s\r\n", b"%s\n\n\r\n\n", b"\xef\xbb\xbf%s\n"],
    ids=["newline", "no newline", "CRLF", "blank lines at the end", "BOM"],
)
def test_4_frame_of_a_line_does_not_count(http: httpx2.Client, client: OpenAI, frame: bytes) -> None:
    batch = run(http, client, frame % jsonl(chat_line("a", "echo", "x")))

    assert counts_of(batch) == {"total": 1, "completed": 1, "failed": 0}


def test_4_long_custom_ids_repeated_keys_and_long_numbers_pass(http: httpx2.Client, client: OpenAI) -> None:
    number = "1" + "0" * 400
    long, line = "i" * 512, json.dumps(with_body())
    lines = [json.dumps(chat_line(long, "echo", "x")), line[:-2] + f', "user_tag": {number}, "user_tag": {number}}}}}']

    batch = run(http, client, "\n".join(lines).encode())

    ids = [json.loads(text)["custom_id"] for text in content_of(http, batch["output_file_id"]).splitlines()]
    assert ids == [long, "a"]


STRANGE: Sequence[str] = ("line\u2028separator", "next\u0085line", "\u000b\u000c\u001c", "ünïcode 鴨 🦆", '"quotes"\\')


def test_5_lines_are_ascii_spaced_and_one_line_each_for_every_reader(http: httpx2.Client, client: OpenAI) -> None:
    batch = run(http, client, jsonl(*(chat_line(text, "echo", text) for text in STRANGE)))

    content = content_of(http, batch["output_file_id"])
    lines = content.splitlines()
    assert content.endswith("\n")
    assert content.isascii()
    assert [json.loads(line)["custom_id"] for line in lines] == list(STRANGE)
    answers = [json.loads(line)["response"]["body"]["choices"][0]["message"]["content"] for line in lines]
    assert answers == list(STRANGE)
    # The body keeps the engine's own spacing.
    assert lines[0].startswith('{"id": "batch_req_')
    assert '", "custom_id": "line\\u2028separator", "response": {"status_code": 200, "request_id": "' in lines[0]
    assert lines[0].endswith('}, "error": null}')


def test_5_success_and_failure_have_their_forms(http: httpx2.Client, client: OpenAI) -> None:
    batch = run(http, client, jsonl(chat_line("good", "echo", "x"), REFUSED_LINE))

    good = json.loads(content_of(http, batch["output_file_id"]))
    bad = json.loads(content_of(http, batch["error_file_id"]))
    for line, status in ((good, 200), (bad, 400)):
        assert list(line) == ["id", "custom_id", "response", "error"]
        assert list(line["response"]) == ["status_code", "request_id", "body"]
        assert line["response"]["status_code"] == status
        assert line["error"] is None
    assert list(bad["response"]["body"]["error"]) == ["message", "type", "param", "code"]
    assert good["response"]["body"]["object"] == "chat.completion"
    assert len({good["id"], bad["id"]}) == 2


def test_5_every_id_is_in_one_of_the_files_once_and_in_input_order(http: httpx2.Client, client: OpenAI) -> None:
    lines = [REFUSED_LINE | {"custom_id": str(n)} if n % 3 else chat_line(str(n), "echo", "x") for n in range(60)]

    batch = run(http, client, jsonl(*lines))

    for kind, expected in (("output", range(0, 60, 3)), ("error", (n for n in range(60) if n % 3))):
        found = [json.loads(line)["custom_id"] for line in content_of(http, batch[f"{kind}_file_id"]).splitlines()]
        assert found == [str(n) for n in expected]


@pytest.mark.parametrize("accept", ["application/binary", "*/*", "text/html"])
def test_5_download_has_the_headers_and_takes_any_accept(http: httpx2.Client, client: OpenAI, accept: str) -> None:
    batch = run(http, client, jsonl(chat_line("a", "echo", "x")))

    answer = http.get(f"/files/{batch['output_file_id']}/content", headers={"accept": accept})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == f'attachment; filename="{batch["id"]}_output.jsonl"'
    assert "content-encoding" not in answer.headers


def test_5_input_is_downloaded_byte_for_byte(http: httpx2.Client) -> None:
    content = b"\xef\xbb\xbf" + jsonl(chat_line("a", "echo", "x")) + b"\r\n\0\xff"

    file_id = start(http, content)["input_file_id"]

    assert http.get(f"/files/{file_id}/content").content == content
