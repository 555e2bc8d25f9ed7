"""The rules of the wire about calls, lists, errors and headers, a test each; numbers are openai-contract's sections."""

import json
import re
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from tests.e2e.stack import Stack, chat_line, submit, wait_for_end

DAY_S = 86_400
WANTED = {"input_file_id": "file-0", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
ANNOUNCED = {"bytes": 2, "filename": "u.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}


def upload(http: httpx2.Client, name: str = "in.jsonl", purpose: str = "batch", **fields: str) -> httpx2.Response:
    return http.post("/files", files={"file": (name, b"{}")}, data={"purpose": purpose, **fields})


def form(*parts: tuple[str, str | None, bytes], content_type: str = "") -> tuple[bytes, dict[str, str]]:
    """A multipart body of (name, filename, content), byte by byte as wanted, and its header."""
    body = b""
    for name, filename, content in parts:
        file = f'; filename="{filename}"' if filename is not None else ""
        kind = f"\r\nContent-Type: {content_type}" if content_type and filename is not None else ""
        body += f'--b\r\nContent-Disposition: form-data; name="{name}"{file}{kind}\r\n\r\n'.encode() + content + b"\r\n"
    return body + b"--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}


def test_1_every_path_is_served_with_and_without_the_version(http: httpx2.Client, open_stack: Stack) -> None:
    root = open_stack.url.removesuffix("/v1")
    for path in ("/files", "/batches", "/models"):
        assert http.get(f"{root}{path}").status_code == http.get(path).status_code == 200
    assert http.get(f"{root}/batches/batch_0").json() == http.get("/batches/batch_0").json()


@pytest.mark.parametrize("escaped", ["a%2Fb%20c", "..%2F..%2Fx", "%00", "%F0%9F%A6%86", "x" * 4000])
def test_1_ids_may_be_anything_and_are_unknown(http: httpx2.Client, escaped: str) -> None:
    for path in (f"/files/{escaped}", f"/files/{escaped}/content", f"/batches/{escaped}"):
        assert http.get(path).status_code == 404
    for path in (f"/batches/{escaped}/cancel", f"/uploads/{escaped}/cancel", f"/files/{escaped}/validate"):
        assert http.post(path).status_code == 404


def test_1_1_file_may_come_before_the_purpose_and_in_chunks_of_unknown_number(http: httpx2.Client) -> None:
    body, headers = form(("file", "in.jsonl", b"{}"), ("purpose", None, b"batch"))

    answer = http.post("/files", content=(body[at : at + 7] for at in range(0, len(body), 7)), headers=headers)

    assert answer.status_code == 200
    assert "content-length" not in answer.request.headers


def test_1_1_bare_filename_upload_is_taken_for_a_batch(http: httpx2.Client) -> None:
    assert upload(http, "upload").json()["filename"] == "upload"


@pytest.mark.parametrize("content_type", ["application/octet-stream", "text/plain; charset=latin-1", "nonsense"])
def test_1_1_content_type_of_the_part_is_ignored(http: httpx2.Client, content_type: str) -> None:
    body, headers = form(("file", "in.jsonl", b"{}"), ("purpose", None, b"batch"), content_type=content_type)

    assert http.post("/files", content=body, headers=headers).status_code == 200


def test_1_1_filename_is_raw_utf_8(http: httpx2.Client) -> None:
    body, headers = form(("purpose", None, b"batch"), ("file", "Überblick 鴨.jsonl", b"{}"))

    assert http.post("/files", content=body, headers=headers).json()["filename"] == "Überblick 鴨.jsonl"


@pytest.mark.parametrize("purpose", ["assistants", "batch", "fine-tune", "vision", "user_data", "evals"])
def test_1_1_every_purpose_is_taken(http: httpx2.Client, purpose: str) -> None:
    assert upload(http, purpose=purpose).status_code == 200


def test_1_1_batch_files_live_for_30_days_and_others_until_deleted(http: httpx2.Client) -> None:
    batch, other = upload(http).json(), upload(http, purpose="user_data").json()

    assert batch["expires_at"] == batch["created_at"] + 30 * DAY_S
    assert other["expires_at"] is None


def test_1_1_expires_after_counts_from_creation(http: httpx2.Client) -> None:
    file = upload(http, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}).json()

    assert file["expires_at"] == file["created_at"] + 3600


@pytest.mark.parametrize(
    ("anchor", "seconds"),
    [("created_at", None), (None, "3600"), ("created_at", "3599"), ("created_at", "2592001"), ("x", "3600")]
    + [("created_at", text) for text in ("", "an hour", "1e9", "-3600", "9" * 400)],
)
def test_1_1_expires_after_needs_both_members_in_their_range(
    http: httpx2.Client, anchor: str | None, seconds: str | None
) -> None:
    fields = {"expires_after[anchor]": anchor, "expires_after[seconds]": seconds}

    answer = upload(http, **{name: value for name, value in fields.items() if value is not None})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("expires_after")


def test_1_1_list_has_a_filter_an_order_and_a_cursor(http: httpx2.Client) -> None:
    ids = [upload(http, f"{n}.bin", "vision").json()["id"] for n in range(3)]

    def listed(query: str) -> list[str]:
        return [file["id"] for file in http.get(f"/files?purpose=vision{query}").json()["data"]]

    assert listed("") == listed("&order=desc")
    assert [i for i in listed("") if i in ids] == ids[::-1]
    assert [i for i in listed("&order=asc") if i in ids] == ids
    assert listed(f"&after={ids[2]}&limit=1") == [ids[1]]
    assert http.get("/files?limit=10000").status_code == 200


def test_1_2_parts_make_the_file_in_the_order_of_the_list(http: httpx2.Client) -> None:
    upload_id = http.post("/uploads", json=ANNOUNCED).json()["id"]
    late, early = (
        http.post(f"/uploads/{upload_id}/parts", files={"data": ("upload", content)}).json()["id"]
        for content in (b"}", b"{")
    )

    for refused in ([early, early], [early], [early, "part_0"], []):
        assert http.post(f"/uploads/{upload_id}/complete", json={"part_ids": refused}).status_code == 400
    wrong = {"part_ids": [early, late], "md5": "0" * 32}
    assert http.post(f"/uploads/{upload_id}/complete", json=wrong).status_code == 400
    right = {"part_ids": [early, late], "md5": "99914b932bd37a50b983c5e7c90ae93b"}
    done = http.post(f"/uploads/{upload_id}/complete", json=right).json()

    assert http.get(f"/files/{done['file']['id']}/content").content == b"{}"
    assert http.get(f"/files/{done['file']['id']}").json() == done["file"]


def test_1_2_upload_lives_for_an_hour_and_takes_nothing_once_it_ended(http: httpx2.Client) -> None:
    started = http.post("/uploads", json=ANNOUNCED).json()
    cancelled = http.post(f"/uploads/{started['id']}/cancel").json()

    assert started["expires_at"] == started["created_at"] + 3600
    assert cancelled["status"] == "cancelled"
    assert http.post(f"/uploads/{started['id']}/parts", files={"data": ("upload", b"{}")}).status_code == 400


@pytest.mark.parametrize(
    "change",
    [{"bytes": 8 * 1024**3 + 1}, {"bytes": -1}, {"bytes": "2"}, {"purpose": "x"}, {"filename": 5}, {"mime_type": None}],
)
def test_1_2_announcement_is_checked(http: httpx2.Client, change: dict[str, Any]) -> None:
    answer = http.post("/uploads", json=ANNOUNCED | change)

    assert answer.status_code == 400
    assert next(iter(change)) in answer.json()["error"]["message"]


def test_1_3_metadata_is_null_when_left_out_or_null(http: httpx2.Client) -> None:
    wanted = WANTED | {"input_file_id": upload(http).json()["id"]}

    for more in ({}, {"metadata": None}, {"output_expires_after": None}):
        assert http.post("/batches", json=wanted | more).json()["metadata"] is None


def test_1_3_unknown_members_of_the_body_are_tolerated(http: httpx2.Client) -> None:
    wanted = WANTED | {"input_file_id": upload(http).json()["id"], "prompt_cache": True}

    assert http.post("/batches", json=wanted).status_code == 200


def test_1_3_batches_are_listed_newest_first_twenty_at_once(http: httpx2.Client) -> None:
    wanted = WANTED | {"input_file_id": upload(http).json()["id"]}
    ids = [http.post("/batches", json=wanted).json()["id"] for _ in range(21)]

    first = http.get("/batches").json()
    rest = http.get(f"/batches?after={first['last_id']}&limit=1").json()

    assert [batch["id"] for batch in first["data"]] == ids[:0:-1]
    assert first["has_more"] is True
    assert [batch["id"] for batch in rest["data"]] == ids[:1]


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/json"}])
def test_1_3_cancel_needs_no_body(http: httpx2.Client, headers: dict[str, str]) -> None:
    content = json.dumps(chat_line("slow", "echo", "slow " * 2_000)).encode()
    file = http.post("/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"}).json()
    batch_id = http.post("/batches", json=WANTED | {"input_file_id": file["id"]}).json()["id"]

    answer = http.post(f"/batches/{batch_id}/cancel", content=b"", headers=headers)

    assert (answer.status_code, answer.json()["status"]) == (200, "cancelling")


def test_1_5_ids_have_the_real_shapes(http: httpx2.Client) -> None:
    file = upload(http).json()
    batch = http.post("/batches", json=WANTED | {"input_file_id": file["id"]})
    started = http.post("/uploads", json=ANNOUNCED).json()

    assert re.fullmatch(r"file-[0-9A-Za-z]{22}", file["id"])
    assert re.fullmatch(r"batch_[0-9a-f]{32}", batch.json()["id"])
    assert int(batch.json()["id"][6:14], 16) == batch.json()["created_at"]
    assert started["id"].startswith("upload_")
    assert re.fullmatch(r"req_[0-9a-f]{32}", batch.headers["x-request-id"])


def test_2_3_empty_page_has_null_ids(http: httpx2.Client) -> None:
    oldest = http.get("/files?order=desc&limit=10000").json()["last_id"]

    empty = http.get(f"/files?after={oldest}").json()

    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


MISSING = "Missing required parameter: '{}'."
# Call, then status, code, param and the text of the message, as a pattern.
ERRORS: dict[str, tuple[dict[str, Any], int, str | None, str | None, str]] = {
    "unknown batch": ({"url": "/batches/batch_0"}, 404, None, None, "No batch found with id 'batch_0'."),
    "cancel of an unknown batch": (
        {"method": "POST", "url": "/batches/batch_0/cancel"},
        404,
        None,
        None,
        "No batch found with id 'batch_0'.",
    ),
    "unknown file": ({"url": "/files/file-0"}, 404, None, "id", "No such File object: file-0"),
    "deletion of an unknown file": (
        {"method": "DELETE", "url": "/files/file-0"},
        404,
        None,
        "id",
        "No such File object: file-0",
    ),
    "content of an unknown file": ({"url": "/files/file-0/content"}, 404, None, "id", "No such File object: file-0"),
    **{
        f"no {field}": (
            {"method": "POST", "url": "/batches", "json": {k: v for k, v in WANTED.items() if k != field}},
            400,
            "missing_required_parameter",
            field,
            MISSING.format(field),
        )
        for field in WANTED
    },
    "bad endpoint": (
        {"method": "POST", "url": "/batches", "json": WANTED | {"endpoint": "/v1/x"}},
        400,
        "invalid_value",
        "endpoint",
        "Invalid value: '/v1/x'. Supported values are: '/v1/.*', and '/.*'.",
    ),
    "bad window": (
        {"method": "POST", "url": "/batches", "json": WANTED | {"completion_window": "1h"}},
        400,
        "invalid_value",
        "completion_window",
        "Invalid value: '1h'. Supported values are: '24h'.",
    ),
    "metadata of arrays": (
        {"method": "POST", "url": "/batches", "json": WANTED | {"metadata": {"k": ["v"]}}},
        400,
        "invalid_type",
        "metadata.k",
        "Invalid type for 'metadata.k': expected a string, but got an array instead.",
    ),
    "too much metadata": (
        {"method": "POST", "url": "/batches", "json": WANTED | {"metadata": {str(n): "v" for n in range(24)}}},
        400,
        "object_above_max_properties",
        "metadata",
        (
            "Invalid 'metadata': too many properties. Expected an object with at most 16 properties, "
            "but got an object with 24 properties instead."
        ),
    ),
    "long metadata": (
        {"method": "POST", "url": "/batches", "json": WANTED | {"metadata": {"k": "v" * 513}}},
        400,
        "string_above_max_length",
        "metadata.k",
        ".*512.*513.*",
    ),
    "limit too high": (
        {"url": "/batches?limit=101"},
        400,
        "integer_above_max_value",
        "limit",
        "Invalid 'limit': integer above maximum value. Expected a value <= 100, but got 101 instead.",
    ),
    "limit of files too high": (
        {"url": "/files?limit=10001"},
        400,
        "integer_above_max_value",
        "limit",
        ".*<= 10000, but got 10001 instead.",
    ),
    "negative limit": (
        {"url": "/batches?limit=-1"},
        400,
        "integer_below_min_value",
        "limit",
        ".*Expected a value >= 0.*",
    ),
    "unknown cursor of files": ({"url": "/files?after=file-0"}, 404, None, "after", ".*file-0.*"),
    "unknown cursor of batches": ({"url": "/batches?after=batch_0"}, 404, None, "after", ".*batch_0.*"),
    "input file of another format": (
        {"method": "POST", "url": "/files", "files": {"file": ("notes.txt", b"x")}, "data": {"purpose": "batch"}},
        400,
        None,
        None,
        "Invalid file format for Batch API. Must be .jsonl",
    ),
    "unknown purpose": (
        {"method": "POST", "url": "/files", "files": {"file": ("a.jsonl", b"x")}, "data": {"purpose": "x"}},
        400,
        None,
        ".*",
        r"'x' is not one of \['fine-tune', 'assistants', 'batch', .*\] - 'purpose'",
    ),
    "unknown input file": (
        {"method": "POST", "url": "/batches", "json": WANTED},
        400,
        "invalid_request",
        "file_id",
        "Cannot find file file-0, or organization .* does not have access to it.",
    ),
    "unknown path": ({"url": "/nowhere"}, 404, None, None, ".+"),
    "wrong method": ({"method": "PATCH", "url": "/files"}, 405, None, None, ".+"),
    "body that is no JSON": ({"method": "POST", "url": "/batches", "content": b"{"}, 400, None, None, ".+"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_6_1_error(http: httpx2.Client, case: str) -> None:
    call, status, code, param, message = ERRORS[case]

    answer = http.request(**{"method": "GET", **call})

    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (answer.status_code, error["type"], error["code"]) == (status, "invalid_request_error", code)
    assert param == ".*" or error["param"] == param
    assert re.fullmatch(message, error["message"]) or message == error["message"]


def test_6_1_limit_of_nothing_is_an_empty_page(http: httpx2.Client) -> None:
    answer = http.get("/batches?limit=0")

    assert (answer.status_code, answer.json()["data"]) == (200, [])


def test_6_1_input_file_must_be_for_batches(http: httpx2.Client) -> None:
    file_id = upload(http, purpose="user_data").json()["id"]

    answer = http.post("/batches", json=WANTED | {"input_file_id": file_id})

    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "Input file must have purpose 'batch', got 'user_data'"


def test_6_1_file_is_deleted_once(http: httpx2.Client) -> None:
    file_id = upload(http).json()["id"]

    assert http.delete(f"/files/{file_id}").json() == {"id": file_id, "object": "file", "deleted": True}
    assert http.delete(f"/files/{file_id}").status_code == 404
    assert file_id not in [file["id"] for file in http.get("/files").json()["data"]]


def test_6_1_final_conflict_is_not_retried(http: httpx2.Client, client: OpenAI) -> None:
    batch = wait_for_end(client, submit(client, [chat_line("a", "echo", "x")]).id)

    answer = http.post(f"/batches/{batch.id}/cancel")

    assert answer.status_code == 409
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"] == {
        "message": "Cannot cancel a batch with status 'completed'.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize("path", ["/files", "/batches/batch_0", "/nowhere", "/models"])
def test_6_2_every_answer_has_the_headers(http: httpx2.Client, path: str) -> None:
    answer = http.get(path)

    assert re.fullmatch("req_[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers["openai-version"] == "2020-10-01"
    assert answer.headers["openai-processing-ms"].isdecimal()
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


def test_6_2_answers_are_json_with_its_type(http: httpx2.Client) -> None:
    for answer in (http.get("/files"), http.get("/batches/batch_0"), http.post("/batches", json={})):
        assert answer.headers["content-type"] == "application/json"
        json.loads(answer.content)


def test_6_3_key_that_comes_with_other_parameters_conflicts(http: httpx2.Client) -> None:
    wanted = WANTED | {"input_file_id": upload(http).json()["id"]}
    headers = {"idempotency-key": wanted["input_file_id"]}

    first, again = (http.post("/batches", json=wanted, headers=headers) for _ in range(2))
    http.delete(f"/files/{wanted['input_file_id']}")
    late = http.post("/batches", json=wanted, headers=headers)
    other = http.post("/batches", json=wanted | {"metadata": {"k": "v"}}, headers=headers)

    assert first.json()["id"] == again.json()["id"] == late.json()["id"]
    assert other.status_code == 409
    assert "conflict" in other.json()["error"]["message"].lower()
    assert other.headers["x-should-retry"] == "false"
