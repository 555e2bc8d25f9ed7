"""Keys, tenants, scopes and limits through a real stack and the command line."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest
from openai import AuthenticationError, NotFoundError, OpenAI, PermissionDeniedError, RateLimitError

from cli import keys
from shared.messages import ApiKey
from tests.e2e.stack import Stack, chat_line, chat_lines, submit, submit_file, wait_for_end

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


def made(stack: Stack, tenant: str, *scopes: str, expires_after_s: int | None = None) -> tuple[ApiKey, str]:
    """A key and its secret."""
    request = keys.check_request(keys.KeyRequest(tenant, "", scopes, expires_after_s, None))
    return keys.create(where(stack), request)


def where(stack: Stack) -> keys.Installation:
    return keys.installation(stack.data, "", "")


def command(stack: Stack, *arguments: str) -> str:
    """What `headrace keys …` prints."""
    line = [sys.executable, "-m", "cli", "keys", *arguments, "--data", str(stack.data)]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def client_of(stack: Stack, secret: str) -> OpenAI:
    return OpenAI(base_url=stack.url, api_key=secret, max_retries=0)


def wait_until(second: int) -> None:
    time.sleep(max(0.0, second - time.time()) + 0.1)


def test_without_any_key_only_this_machine_may_call_and_then_nobody(stack: Stack) -> None:
    with httpx2.Client(base_url=stack.url) as http:
        assert http.get("/files").status_code == 200
        assert http.get("/files", headers={"x-forwarded-for": "10.0.0.1"}).status_code == 401
        secret = command(stack, "create", "--tenant", "first").strip()
        deadline = time.monotonic() + 1.0
        while http.get("/files").status_code != 401:
            assert time.monotonic() < deadline, "a change is seen within a second"
        for sent in ({}, {"authorization": "Basic x"}, {"authorization": "Bearer"}, {"authorization": "Bearer sk-no"}):
            refused = http.get("/files", headers=sent)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
            assert refused.json()["error"]["message"].startswith("Incorrect API key provided")
        found = http.get("/files", headers={"authorization": f"Bearer {secret}"})
        assert (found.status_code, found.headers["openai-organization"]) == (200, "first")
        assert found.headers["access-control-allow-origin"] == "*"


def test_tenants_see_nothing_of_each_other(stack: Stack) -> None:
    one, two = (client_of(stack, made(stack, name)[1]) for name in ("one", "two"))
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
    short, secret = made(stack, "s", "files.read", "batches.read", expires_after_s=2)
    reader = client_of(stack, secret)
    assert list(reader.batches.list()) == []
    with pytest.raises(PermissionDeniedError, match=r"Missing scopes: files\.write"):
        reader.files.create(file=b"{}", purpose="batch")
    with pytest.raises(PermissionDeniedError):
        reader.models.list()
    wait_until(short.expires_at or 0)
    with pytest.raises(AuthenticationError):
        reader.batches.list()
    old, old_secret = made(stack, "s")
    new, new_secret = keys.rotate(where(stack), old.id, 2)
    assert list(client_of(stack, new_secret).batches.list()) == []
    assert list(client_of(stack, old_secret).batches.list()) == []
    wait_until(int(time.time()) + 3)
    with pytest.raises(AuthenticationError):
        client_of(stack, old_secret).batches.list()
    command(stack, "revoke", new.id)
    time.sleep(1.0)
    with pytest.raises(AuthenticationError):
        client_of(stack, new_secret).batches.list()
    store = keys.Installation("", where(stack).store)
    states = {key.id: keys.describe(key, time.time())["state"] for key in keys.list_keys(store)}
    assert (states[old.id], states[new.id]) == ("expired", "revoked")
    assert old_secret not in command(stack, "list", "--output", "json")


def test_limits_of_a_tenant(stack: Stack) -> None:
    tight = client_of(stack, made(stack, "tight")[1])
    too_long = wait_for_end(tight, submit(tight, chat_lines(11, "echo")).id)
    assert [error.code for error in too_long.errors.data] == ["token_limit_exceeded"]
    running = submit(tight, [chat_line("slow", "echo", "word " * 300)], extra_headers={"Idempotency-Key": "the same"})
    again = submit_file(tight, running.input_file_id, extra_headers={"Idempotency-Key": "the same"})
    assert again.id == running.id, "a call that is repeated makes no second batch"
    with pytest.raises(RateLimitError) as refused:
        submit(tight, chat_lines(1, "echo"))
    assert 0 < float(refused.value.response.headers["retry-after"]) <= 120
    with pytest.raises(RateLimitError, match="Storage limit"):
        tight.files.create(file=b"x" * 5_000, purpose="user_data")
    wait_for_end(tight, running.id)

    busy = client_of(stack, made(stack, "busy")[1])
    with pytest.raises(RateLimitError) as often:
        for _ in range(4):
            busy.batches.list()
    assert 0 < float(often.value.response.headers["retry-after"]) <= 60


def test_keys_outlive_the_log(stack: Stack) -> None:
    _, secret = made(stack, "later")
    stack.stop()
    stack.start()  # a new log in memory: everything in it comes from the store

    assert list(client_of(stack, secret).batches.list()) == []
    with httpx2.Client(base_url=stack.url) as http:
        assert http.get("/files").status_code == 401
