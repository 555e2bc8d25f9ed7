"""Keys, tenants, scopes and limits through a real stack and the command line."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from openai import AuthenticationError, NotFoundError, OpenAI, PermissionDeniedError, RateLimitError

from tests.e2e.stack import Stack, chat_line, chat_lines, submit, wait_for_end

LIMITS = {"tight": {"open_batches": 1, "stored_bytes": 5_000, "queued_lines": 10}, "busy": {"requests_per_minute": 3}}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    arguments = ["--engine", "echo", "--kafka", "memory", "--model", "echo"]
    env = {
        "HEADRACE_INGEST__TENANT_LIMITS": json.dumps(LIMITS),
        "HEADRACE_INFERENCE__ECHO__LATENCY_PER_TOKEN_S": "0.01",
    }
    with Stack(tmp_path_factory.mktemp("keys"), arguments, env) as started:
        yield started


def keys(stack: Stack, *arguments: str) -> Any:
    """`headrace keys …`; what it prints as JSON."""
    command = [sys.executable, "-m", "cli", "keys", *arguments, "--data", str(stack.data)]
    if arguments[0] != "revoke":
        command += ["--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout) if arguments[0] != "revoke" else None


def client_of(stack: Stack, secret: str) -> OpenAI:
    return OpenAI(base_url=stack.url, api_key=secret, max_retries=0)


def test_without_any_key_only_this_machine_may_call_and_then_nobody(stack: Stack) -> None:
    with httpx2.Client(base_url=stack.url) as http:
        assert http.get("/files").status_code == 200
        assert http.get("/files", headers={"x-forwarded-for": "10.0.0.1"}).status_code == 401
        secret = keys(stack, "create", "--tenant", "first")["secret"]
        deadline = time.monotonic() + 1.0
        while http.get("/files").status_code != 401:
            assert time.monotonic() < deadline, "a change is seen within a second"
        for sent in ({}, {"authorization": "Basic x"}, {"authorization": "Bearer "}, {"authorization": "Bearer sk-no"}):
            refused = http.get("/files", headers=sent)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert refused.json()["error"]["message"].startswith("Incorrect API key provided")
        found = http.get("/files", headers={"authorization": f"Bearer {secret}"})
        assert (found.status_code, found.headers["openai-organization"]) == (200, "first")
        assert found.headers["access-control-allow-origin"] == "*"


def test_tenants_see_nothing_of_each_other(stack: Stack) -> None:
    one, two = (client_of(stack, keys(stack, "create", "--tenant", name)["secret"]) for name in ("one", "two"))
    batch = wait_for_end(one, submit(one, chat_lines(3, "echo")).id)
    upload = one.uploads.create(bytes=1, filename="u.jsonl", mime_type="x", purpose="batch")

    calls: tuple[Callable[[], object], ...] = (
        lambda: two.batches.retrieve(batch.id),
        lambda: two.batches.cancel(batch.id),
        lambda: two.files.retrieve(batch.input_file_id),
        lambda: two.files.content(batch.output_file_id),
        lambda: two.files.delete(batch.input_file_id),
        lambda: two.uploads.cancel(upload.id),
        lambda: two.get(f"/batches/{batch.id}/results", cast_to=object),
        lambda: two.post(f"/batches/{batch.id}/retry", cast_to=object),
        lambda: two.post(f"/files/{batch.input_file_id}/validate", cast_to=object),
        lambda: two.files.list(after=batch.input_file_id),
        lambda: two.batches.list(after=batch.id),
    )
    for call in calls:
        with pytest.raises(NotFoundError):
            call()
    with pytest.raises(Exception, match="Cannot find file"):
        two.batches.create(input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h")
    assert list(two.batches.list()) == []
    assert list(two.files.list()) == []
    assert one.batches.retrieve(batch.id).status == "completed"


def test_scopes_end_and_rotation(stack: Stack) -> None:
    made = keys(stack, "create", "--tenant", "s", "--scope", "files.read", "--scope", "batches.read", "--expires", "2s")
    reader = client_of(stack, made["secret"])
    assert list(reader.batches.list()) == []
    with pytest.raises(PermissionDeniedError, match=r"Missing scopes: files\.write"):
        reader.files.create(file=b"{}", purpose="batch")
    with pytest.raises(PermissionDeniedError):
        reader.models.list()
    time.sleep(2.1)
    with pytest.raises(AuthenticationError):
        reader.batches.list()
    old = keys(stack, "create", "--tenant", "s")
    new = keys(stack, "rotate", old["id"], "--grace", "1s")
    assert list(client_of(stack, new["secret"]).batches.list()) == list(client_of(stack, old["secret"]).batches.list())
    time.sleep(1.5)
    with pytest.raises(AuthenticationError):
        client_of(stack, old["secret"]).batches.list()
    keys(stack, "revoke", new["id"])
    time.sleep(1.0)
    with pytest.raises(AuthenticationError):
        client_of(stack, new["secret"]).batches.list()
    states = {key["id"]: key["state"] for key in keys(stack, "list")}
    assert (states[old["id"]], states[new["id"]]) == ("expired", "revoked")
    assert old["secret"] not in json.dumps(keys(stack, "list"))


def test_limits_of_a_tenant(stack: Stack) -> None:
    tight = client_of(stack, keys(stack, "create", "--tenant", "tight")["secret"])
    too_long = wait_for_end(tight, submit(tight, chat_lines(11, "echo")).id)
    assert [error.code for error in too_long.errors.data] == ["token_limit_exceeded"]
    running = submit(tight, [chat_line("slow", "echo", "word " * 100)])
    with pytest.raises(RateLimitError) as refused:
        submit(tight, chat_lines(1, "echo"))
    assert 0 < float(refused.value.response.headers["retry-after"]) <= 120
    with pytest.raises(RateLimitError, match="Storage limit"):
        tight.files.create(file=b"x" * 5_000, purpose="user_data")
    wait_for_end(tight, running.id)

    busy = client_of(stack, keys(stack, "create", "--tenant", "busy")["secret"])
    with pytest.raises(RateLimitError) as often:
        for _ in range(4):
            busy.batches.list()
    assert 0 < float(often.value.response.headers["retry-after"]) <= 60


def test_keys_outlive_the_log(stack: Stack) -> None:
    made = keys(stack, "create", "--tenant", "later")
    stack.stop()
    stack.start()  # a new log in memory: everything in it comes from the store

    assert list(client_of(stack, made["secret"]).batches.list()) == []
    with httpx2.Client(base_url=stack.url) as http:
        assert http.get("/files").status_code == 401
