"""More than ten thousand bad requests and files: no 5xx, no hang, bounded memory, and a healthy stack afterwards.

As many files again are judged in tests/unit/ingest/test_input_file.py. A failure names the seed:
`hostile.bad_request(SEED)` or `hostile.bad_file(SEED)` is what was sent.
"""

import asyncio
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.contract import hostile
from tests.e2e.stack import Stack, assert_each_line_once, chat_lines, submit, wait_for_end

NUM_REQUESTS, NUM_FILES = 10_000, 300
CONNECTIONS = 8
ANSWER_TIMEOUT_S = 20.0
GROWTH_MAX_MB = 100


def resident_mb(stack: Stack) -> float:
    """Resident memory of ingest."""
    pages = int(Path(f"/proc/{stack.pid('ingest-0')}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.fixture
def healthy(open_stack: Stack) -> Any:
    """The stack, whose memory is bounded by what follows and which works afterwards."""
    before = resident_mb(open_stack)
    yield open_stack
    grown = resident_mb(open_stack) - before
    assert grown < GROWTH_MAX_MB, f"ingest grew by {grown:.0f} MB"
    client, lines = open_stack.client(), chat_lines(20, "echo")
    assert_each_line_once(client, wait_for_end(client, submit(client, lines).id), lines)


def check(answer: httpx2.Response, seed: int) -> None:
    """An answer that is no crash, with an envelope when it refuses."""
    assert answer.status_code < 500, f"seed {seed}: {answer.status_code} {answer.text}"
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, f"seed {seed}: {error}"
        assert error["message"], f"seed {seed}"
    assert "x-request-id" in answer.headers, f"seed {seed}"


async def spread(seeds: range, call: Any) -> None:
    """Call with every seed, some at a time."""
    queue = iter(seeds)

    async def take() -> None:
        for seed in queue:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await call(seed)

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(take())


async def test_bad_requests(healthy: Stack) -> None:
    async with httpx2.AsyncClient(base_url=healthy.url, timeout=ANSWER_TIMEOUT_S) as http:

        async def call(seed: int) -> None:
            bad = hostile.bad_request(seed)
            headers = {name: value.encode("latin-1") for name, value in bad.headers.items()}
            check(await http.request(bad.method, bad.path, content=bad.content, headers=headers), seed)  # type: ignore[arg-type]

        await spread(range(NUM_REQUESTS), call)


async def test_bad_files(healthy: Stack) -> None:
    async with httpx2.AsyncClient(base_url=healthy.url, timeout=ANSWER_TIMEOUT_S) as http:

        async def call(seed: int) -> None:
            files = {"file": ("in.jsonl", hostile.bad_file(seed))}
            file = await http.post("/files", files=files, data={"purpose": "batch"})
            assert file.status_code == 200, f"seed {seed}: {file.text}"
            dry_run = await http.post(f"/files/{file.json()['id']}/validate", json={"endpoint": "/v1/chat/completions"})
            check(dry_run, seed)
            assert dry_run.status_code == 200, f"seed {seed}: {dry_run.text}"

        await spread(range(NUM_FILES), call)


async def test_batches_of_bad_files_end(healthy: Stack) -> None:
    """Every one ends by itself: as failed, or completed with what was good."""
    async with httpx2.AsyncClient(base_url=healthy.url, timeout=ANSWER_TIMEOUT_S) as http:
        waiting: dict[str, int] = {}

        async def call(seed: int) -> None:
            files = {"file": ("in.jsonl", hostile.bad_file(seed))}
            file = (await http.post("/files", files=files, data={"purpose": "batch"})).json()
            batch = await http.post("/batches", json=hostile.GOOD_BATCH | {"input_file_id": file["id"]})
            waiting[batch.json()["id"]] = seed

        await spread(range(60), call)
        deadline = time.monotonic() + 60
        while waiting:
            assert time.monotonic() < deadline, f"seeds that do not end: {sorted(waiting.values())}"
            for batch_id in list(waiting):
                status = (await http.get(f"/batches/{batch_id}")).json()["status"]
                if status in ("failed", "completed"):
                    del waiting[batch_id]
            await asyncio.sleep(0.1)


def test_uploads_that_are_cut_and_uploads_that_crawl(healthy: Stack) -> None:
    address = urlsplit(healthy.url)
    head = (
        b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b'Content-Length: 1000000\r\n\r\n--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    open_sockets = []
    for number in range(60):
        opened = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=10)
        opened.sendall(head[: 40 + 5 * number] if number % 3 == 0 else head + b"y" * (1_000 * number))
        if number % 2:
            opened.close()
        else:
            open_sockets.append(opened)
    client = healthy.client()
    assert client.files.create(file=b"{}", purpose="batch").status == "processed", "others are served meanwhile"
    for opened in open_sockets:
        opened.sendall(b"z")
        opened.close()
    with httpx2.Client(base_url=healthy.url, timeout=10) as http:
        assert http.post("/batches", content=b"x" * (2 * 1024 * 1024)).status_code == 413
        too_many = http.post("/files", files=[("file", (f"{n}.jsonl", b"x")) for n in range(50)])
        assert too_many.status_code == 400
        fields = http.post("/files", files={"file": ("a.jsonl", b"x")}, data={f"f{n}": "x" for n in range(5_000)})
        assert fields.status_code == 400
