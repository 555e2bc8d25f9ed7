"""What Headrace adds, and strict clients tolerate: results while running, retry, priorities, idempotent create."""

import json
import secrets
import threading
import time
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from tests.contract.test_goldens import upload
from tests.e2e.stack import Stack, assert_each_line_once, chat_line, chat_lines, result_lines, submit, wait_for_end

SLOW = "word " * 60  # 0.6 s


def order(file_id: str, **more: Any) -> dict[str, Any]:
    return {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"} | more


def lines_of(http: httpx2.Client, batch_id: str, **query: Any) -> list[dict[str, Any]]:
    answer = http.get(f"/batches/{batch_id}/results", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/jsonl")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_results_can_be_read_while_the_batch_runs_in_pieces(http: httpx2.Client, client: OpenAI) -> None:
    lines = [chat_line(str(n), "echo", f"{SLOW * (n % 4)}{n}") for n in range(400)]
    batch = submit(client, lines)
    found: list[dict[str, Any]] = []
    early = 0
    while True:
        is_over = client.batches.retrieve(batch.id).status == "completed"
        after = found[-1]["id"] if found and len(found) % 2 else len(found)
        more = lines_of(http, batch.id, after=after, follow="false")
        early += 0 if is_over else len(more)
        found += more
        if is_over and not more:
            break
        time.sleep(0.1)

    assert sorted(int(entry["custom_id"]) for entry in found) == list(range(400)), "a gap or a repetition"
    assert early > 0, "nothing was there before the end"
    ended = wait_for_end(client, batch.id)
    by_id = {entry["id"]: entry for entry in result_lines(client, ended.output_file_id)}
    assert all(by_id[entry["id"]] == entry for entry in found)


def test_stream_follows_the_batch_to_its_end_and_can_be_resumed(open_stack: Stack, client: OpenAI) -> None:
    batch = submit(client, [chat_line(str(n), "echo", f"{SLOW * (n % 5)}{n}") for n in range(100)])
    found: list[dict[str, Any]] = []
    with httpx2.Client(base_url=open_stack.url, timeout=30) as http:
        for stop_after in (3, 10, None):
            params = {"after": found[-1]["id"]} if found else {}
            with http.stream("GET", f"/batches/{batch.id}/results", params=params) as answer:
                for number, line in enumerate(answer.iter_lines()):
                    if number == stop_after:
                        break  # a connection that is cut
                    found.append(json.loads(line))

    assert sorted(int(entry["custom_id"]) for entry in found) == list(range(100))
    assert client.batches.retrieve(batch.id).status == "completed"


def test_lines_that_never_ran_come_last(http: httpx2.Client, client: OpenAI) -> None:
    batch = submit(client, [chat_line(str(n), "echo", SLOW * (8 if n % 2 else 0) + str(n)) for n in range(60)])
    reader: list[list[dict[str, Any]]] = []
    thread = threading.Thread(target=lambda: reader.append(lines_of(http, batch.id)))
    thread.start()
    deadline = time.monotonic() + 20
    while not client.batches.retrieve(batch.id).request_counts.completed and time.monotonic() < deadline:  # type: ignore[union-attr]
        time.sleep(0.05)
    client.batches.cancel(batch.id)
    ended = wait_for_end(client, batch.id)
    thread.join(30)

    assert len(reader[0]) == 60
    assert len({entry["custom_id"] for entry in reader[0]}) == 60
    num_done = ended.request_counts.completed
    assert all(entry["response"] for entry in reader[0][:num_done])
    assert {entry["error"]["code"] for entry in reader[0][num_done:]} == {"batch_cancelled"}
    assert lines_of(http, batch.id, after=reader[0][-2]["id"]) == reader[0][-1:]


@pytest.mark.parametrize(
    ("after", "follow", "status"),
    [("x", "true", 400), ("batch_req_" + "0" * 32, "true", 404), ("-1", "true", 400), ("", "maybe", 400)],
)
def test_wrong_cursor_is_refused(http: httpx2.Client, client: OpenAI, after: str, follow: str, status: int) -> None:
    batch = wait_for_end(client, submit(client, chat_lines(1, "echo")).id)

    answer = http.get(f"/batches/{batch.id}/results", params={"after": after, "follow": follow})

    assert answer.status_code == status, answer.text


def test_retry_runs_what_failed_and_nothing_else(http: httpx2.Client, client: OpenAI) -> None:
    good, bad = chat_lines(20, "echo"), [chat_line(f"bad-{n}", "echo", "x") for n in range(5)]
    for line in bad:
        line["body"]["messages"] = [{}]
    batch = wait_for_end(client, submit(client, [*good[:10], *bad, *good[10:]]).id)
    assert http.post(f"/batches/{batch.id}/retry").status_code == 200
    again = http.post(f"/batches/{batch.id}/retry", headers={"Idempotency-Key": secrets.token_hex()}).json()

    assert again["x_headrace"]["retry_of"] == batch.id
    ended = wait_for_end(client, again["id"])
    assert_each_line_once(client, ended, bad)
    assert ended.request_counts.failed == 5
    clean = wait_for_end(client, submit(client, good).id)
    refused = http.post(f"/batches/{clean.id}/retry")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "batch_id")


def test_retry_of_a_cancelled_batch_finishes_it(http: httpx2.Client, client: OpenAI) -> None:
    lines = [chat_line(str(n), "echo", SLOW * 3 + str(n)) for n in range(30)]
    batch = submit(client, lines)
    assert http.post(f"/batches/{batch.id}/retry").status_code == 409
    client.batches.cancel(batch.id)
    first = wait_for_end(client, batch.id)

    second = wait_for_end(client, http.post(f"/batches/{batch.id}/retry").json()["id"])

    done = result_lines(client, first.output_file_id) + result_lines(client, second.output_file_id)
    assert sorted(int(entry["custom_id"]) for entry in done) == list(range(30))


def test_same_key_makes_one_batch_however_it_is_sent(http: httpx2.Client) -> None:
    file, key = upload(http, b"{}"), secrets.token_hex()
    answers = [
        http.post("/batches", json=order(file["id"]), headers={"Idempotency-Key": key}),
        http.post("/batches", json=order(file["id"], idempotency_key=key)),
    ]
    threads = [
        threading.Thread(
            target=lambda: answers.append(http.post("/batches", json=order(file["id"], idempotency_key=key)))
        )
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = http.post("/batches", json=order(file["id"], idempotency_key=key, metadata={"a": "b"}))

    assert {answer.json()["id"] for answer in answers} == {answers[0].json()["id"]}
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")
    assert "onflict" in other.json()["error"]["message"]


def test_create_that_the_sdk_repeats_makes_one_batch(http: httpx2.Client) -> None:
    file = upload(http, b"{}")
    first = http.post("/batches", json=order(file["id"])).json()
    repeated = http.post("/batches", json=order(file["id"]), headers={"x-stainless-retry-count": "1"}).json()
    different = http.post(
        "/batches", json=order(file["id"], metadata={"a": "b"}), headers={"x-stainless-retry-count": "1"}
    ).json()
    deliberate = http.post("/batches", json=order(file["id"]), headers={"x-stainless-retry-count": "0"}).json()

    assert repeated["id"] == first["id"]
    assert len({first["id"], different["id"], deliberate["id"]}) == 3


def test_dry_run_finds_what_the_batch_would(http: httpx2.Client, client: OpenAI) -> None:
    content = b'{"custom_id": 5}\n\n{"custom_id": "a", "method": "GET", "url": "/v1/embeddings", "body": {}}\n'
    file = upload(http, content)

    found = http.post(f"/files/{file['id']}/validate", json={"endpoint": "/v1/embeddings"}).json()
    batch = client.batches.create(input_file_id=file["id"], endpoint="/v1/embeddings", completion_window="24h")

    assert (found["valid"], found["total"]) == (False, 3)
    ended = wait_for_end(client, batch.id)
    assert ended.errors.model_dump() == found["errors"]


def test_upload_is_over_once_it_ended(http: httpx2.Client) -> None:
    announced = {"bytes": 3, "filename": "u.jsonl", "mime_type": "application/jsonl", "purpose": "batch"}
    upload_id = http.post("/uploads", json=announced).json()["id"]
    part = http.post(f"/uploads/{upload_id}/parts", files={"data": ("upload", b"{}\n")}).json()
    path, body = f"/uploads/{upload_id}/complete", {"part_ids": [part["id"]]}

    assert http.post(path, json={"part_ids": [part["id"], part["id"]]}).status_code == 400
    assert http.post(path, json=body | {"md5": "0" * 32}).json()["error"]["param"] == "md5"
    first = http.post(path, json=body)
    assert first.status_code == 200, first.text
    assert http.post(path, json=body).json()["file"]["id"] == first.json()["file"]["id"]
    assert http.post(f"/uploads/{upload_id}/cancel").status_code == 400
    late = http.post(f"/uploads/{upload_id}/parts", files={"data": ("upload", b"{}\n")})
    assert late.status_code == 400
    assert http.post("/uploads/upload_0/cancel").status_code == 404


def test_range_of_a_file(http: httpx2.Client) -> None:
    file = upload(http, bytes(range(256)) * 5_000, "r.bin", "user_data")
    path = f"/files/{file['id']}/content"
    whole = http.get(path)

    part = http.get(path, headers={"range": "bytes=1000000-1000009"})
    assert (part.status_code, part.content) == (206, whole.content[1_000_000:1_000_010])
    assert part.headers["content-range"] == "bytes 1000000-1000009/1280000"
    assert http.get(path, headers={"range": "bytes=-5"}).content == whole.content[-5:]
    beyond = http.get(path, headers={"range": "bytes=9999999-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */1280000")
    assert beyond.json()["error"]["type"] == "invalid_request_error"
    assert http.get(path, headers={"range": "bytes=0-1", "if-range": '"other"'}).status_code == 200


def test_repeated_retry_is_answered_although_its_files_are_gone(http: httpx2.Client, client: OpenAI) -> None:
    bad = chat_line("bad", "echo", "x")
    bad["body"]["messages"] = [{}]
    batch = wait_for_end(client, submit(client, [bad]).id)
    headers = {"Idempotency-Key": secrets.token_hex()}
    first = http.post(f"/batches/{batch.id}/retry", headers=headers).json()
    wait_for_end(client, first["id"])
    for file_id in (batch.input_file_id, batch.error_file_id, first["input_file_id"]):
        assert http.delete(f"/files/{file_id}").status_code == 200

    again = http.post(f"/batches/{batch.id}/retry", headers=headers)

    assert (again.status_code, again.json().get("id")) == (200, first["id"])
