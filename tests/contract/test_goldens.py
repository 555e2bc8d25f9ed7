"""Every response shape, key by key and in order, beside what the real service answers (openai-contract 2).

A golden holds names for what differs from run to run: `<file-id>`, `<time>` and the like. After a change that is meant,
`UPDATE_GOLDENS=1 pytest tests/contract/test_goldens.py` writes them anew, and the difference is reviewed.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import httpx2
from openai import OpenAI

from tests.e2e.stack import chat_line, submit, wait_for_end

GOLDENS = Path(__file__).parent / "goldens"
_NAMES = (
    (re.compile(r"batch_req_[0-9a-f]{32}"), "<line-id>"),
    (re.compile(r"batch_[0-9a-f]{32}"), "<batch-id>"),
    (re.compile(r"file-[1-9A-HJ-NP-Za-km-z]{22}"), "<file-id>"),
    (re.compile(r"upload_[0-9a-f]{32}"), "<upload-id>"),
    (re.compile(r"part_[0-9a-f]{32}"), "<part-id>"),
    (re.compile(r"chatcmpl-[0-9a-f]{32}"), "<answer-id>"),
)


def named(value: Any, key: str = "") -> Any:
    """The value with names for what differs from run to run."""
    if isinstance(value, dict):
        return {name: named(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [named(item, key) for item in value]
    if isinstance(value, str):
        for pattern, name in _NAMES:
            value = pattern.sub(name, value)
        return value
    if isinstance(value, int) and (key.endswith("_at") or key == "created"):
        return "<time>"
    return "<rate>" if key == "lines_per_second" and value is not None else value


def check(name: str, value: Any) -> None:
    """Compare with the golden of this name, order of keys included."""
    path, found = GOLDENS / f"{name}.json", json.dumps(named(value), indent=2, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
    assert found == path.read_text(), name


def upload(http: httpx2.Client, content: bytes, name: str = "in.jsonl", purpose: str = "batch") -> dict[str, Any]:
    answer = http.post("/files", files={"file": (name, content)}, data={"purpose": purpose})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def get(http: httpx2.Client, path: str) -> Any:
    answer = http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_files(http: httpx2.Client) -> None:
    upload(http, b"x", "older.txt", "user_data")
    batch_file, other = upload(http, b"{}"), upload(http, b"x", "notes.txt", "user_data")

    check("file", batch_file)
    check("file_user_data", other)
    check("file_list", get(http, "/files?purpose=user_data&limit=1"))
    check("file_list_empty", get(http, "/files?purpose=vision"))
    check("file_validation", http.post(f"/files/{batch_file['id']}/validate").json())
    check("file_deleted", http.delete(f"/files/{other['id']}").json())


def test_uploads(http: httpx2.Client) -> None:
    announced = {"bytes": 2, "filename": "u.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
    started = http.post("/uploads", json=announced).json()
    part = http.post(f"/uploads/{started['id']}/parts", files={"data": ("upload", b"{}")}).json()

    check("upload_pending", started)
    check("upload_part", part)
    check("upload_completed", http.post(f"/uploads/{started['id']}/complete", json={"part_ids": [part["id"]]}).json())
    check("upload_cancelled", http.post(f"/uploads/{http.post('/uploads', json=announced).json()['id']}/cancel").json())


def test_batches(http: httpx2.Client, client: OpenAI) -> None:
    lines = [
        chat_line("good", "echo", "hi"),
        {**chat_line("bad", "echo", "hi"), "body": {"model": "echo", "messages": [{}]}},
    ]
    file = upload(http, b"\n".join(json.dumps(line).encode() for line in lines))
    wanted = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    http.post("/batches", json=wanted)
    created = http.post("/batches", json=wanted | {"metadata": {"k": "v"}})
    batch_id = created.json()["id"]
    wait_for_end(client, batch_id)
    completed = get(http, f"/batches/{batch_id}")

    check("batch_validating", created.json())
    check("batch_completed", completed)
    check("batch_list", get(http, "/batches?limit=1"))
    check("output_line", json.loads(http.get(f"/files/{completed['output_file_id']}/content").text))
    check("error_line", json.loads(http.get(f"/files/{completed['error_file_id']}/content").text))
    check("result_file", get(http, f"/files/{completed['output_file_id']}"))


def test_batch_that_is_refused_as_a_whole(http: httpx2.Client, client: OpenAI) -> None:
    file = upload(http, b'not json\n{"custom_id": "a"}')
    wanted = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
    batch_id = http.post("/batches", json=wanted).json()["id"]
    wait_for_end(client, batch_id)

    check("batch_failed", get(http, f"/batches/{batch_id}"))


def test_batch_that_is_cancelled(http: httpx2.Client, client: OpenAI) -> None:
    batch = submit(client, [chat_line(str(n), "echo", "slow " * 500) for n in range(3)])
    cancelling = http.post(f"/batches/{batch.id}/cancel").json()
    wait_for_end(client, batch.id)
    cancelled = get(http, f"/batches/{batch.id}")

    assert cancelling["status"] == "cancelling"
    for name, found in (("batch_cancelling", cancelling), ("batch_cancelled", cancelled)):
        # It may have been validated before the call came, or not.
        check(name, found | {"in_progress_at": None, "model": None, "request_counts": None, "x_headrace": None})
    lines = (
        http.get(f"/files/{cancelled['error_file_id']}/content").text.splitlines() if cancelled["error_file_id"] else []
    )
    for line in lines:
        check("cancelled_line", json.loads(line) | {"custom_id": "0"})


def test_errors(http: httpx2.Client) -> None:
    wanted = {"input_file_id": "file-0", "endpoint": "/v1/embeddings", "completion_window": "24h"}
    calls = {
        "unknown_file": http.get("/files/file-0"),
        "unknown_batch": http.get("/batches/batch_0"),
        "unknown_path": http.get("/nothing"),
        "wrong_method": http.put("/files"),
        "missing_field": http.post("/batches", json={}),
        "bad_endpoint": http.post("/batches", json=wanted | {"endpoint": "/v1/nope"}),
        "bad_window": http.post("/batches", json=wanted | {"completion_window": "1h"}),
        "bad_metadata": http.post("/batches", json=wanted | {"metadata": {"k": ["v"]}}),
        "unknown_input_file": http.post("/batches", json=wanted),
        "not_json": http.post("/batches", content=b"{"),
        "limit_too_high": http.get("/batches?limit=101"),
        "unknown_after": http.get("/files?after=file-0"),
        "wrong_suffix": http.post("/files", files={"file": ("a.txt", b"x")}, data={"purpose": "batch"}),
        "unknown_purpose": http.post("/files", files={"file": ("a.txt", b"x")}, data={"purpose": "x"}),
        "not_a_form": http.post("/files", json={}),
    }

    check("errors", {name: {"status": answer.status_code, **answer.json()} for name, answer in calls.items()})
    for answer in calls.values():
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["openai-version"] == "2020-10-01"
        assert answer.headers["openai-processing-ms"].isdecimal()


def test_models(http: httpx2.Client) -> None:
    check("model_list", get(http, "/models"))
    check("model", get(http, "/models/echo"))
