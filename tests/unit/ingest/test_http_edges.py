"""Uploads and errors at the HTTP edge, through the application itself."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, Request

from services.ingest.api.body import BODY_BYTES_MAX, read_body
from services.ingest.api.upload_form import read_upload
from services.ingest.app import create_app
from shared.errors import UnavailableError
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry
from tests.fakes import QUIET
from tests.memory_spans import MemorySpanExporter

FILE_MAX, BATCH_MAX = 5_000, 2_000


def application(telemetry: Telemetry = QUIET) -> Any:
    router = APIRouter()

    async def upload(request: Request) -> dict[str, Any]:
        async with read_upload(request, FILE_MAX, BATCH_MAX) as taken:
            taken.content.seek(0)
            return {
                "bytes": taken.num_bytes,
                "filename": taken.filename,
                "purpose": taken.purpose,
                "expires": taken.expires_after_s,
                "content": taken.content.read().decode(errors="replace"),
            }

    async def fail(kind: str, number: int = 0) -> None:
        assert number == 0
        raise {
            "unavailable": UnavailableError("kafka is away"),
            "full": OSError(28, "No space left on device"),
            "crash": RuntimeError("secret detail"),
        }[kind]

    async def body(request: Request) -> int:
        return len(await read_body(request))

    router.add_api_route("/upload", upload, methods=["POST"])
    router.add_api_route("/fail/{kind}", fail, methods=["GET"])
    router.add_api_route("/body", body, methods=["POST"])
    return create_app([router], lambda: {"workers/m": "none alive"}, telemetry)


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=application(), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test/v1") as opened:
        yield opened


async def test_fields_come_in_any_order_and_the_file_is_spooled(client: httpx2.AsyncClient) -> None:
    parts = [
        ("file", ("dir/in.jsonl", b"content")),
        ("purpose", (None, b"batch")),
        ("expires_after[anchor]", (None, b"created_at")),
        ("expires_after[seconds]", (None, b"3600")),
    ]
    for order in (parts, parts[::-1]):
        answer = await client.post("/upload", files=order)

        assert answer.json() == {
            "bytes": 7,
            "filename": "in.jsonl",
            "purpose": "batch",
            "expires": 3600,
            "content": "content",
        }


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([("purpose", (None, b"batch"))], "Missing required parameter: 'file'."),
        ([("file", ("a.jsonl", b"x"))], "Missing required parameter: 'purpose'."),
        ([("file", ("a.jsonl", b"x")), ("purpose", (None, b"nope"))], "'nope' is not one of"),
        ([("file", ("a.txt", b"x")), ("purpose", (None, b"batch"))], "Must be .jsonl"),
        ([("file", ("a.jsonl", b"x" * 2_001)), ("purpose", (None, b"batch"))], "File is too large."),
        ([("file", ("a.bin", b"x" * 5_001)), ("purpose", (None, b"user_data"))], "File is too large."),
        ([("file", ("a.bin", b"x" * 500_000)), ("purpose", (None, b"user_data"))], "File is too large."),
        ([("file", ("a" * 300, b"x")), ("purpose", (None, b"batch"))], "file name is longer"),
        (
            [
                ("file", ("a.jsonl", b"x")),
                ("purpose", (None, b"batch")),
                ("expires_after[anchor]", (None, b"created_at")),
                ("expires_after[seconds]", (None, b"soon")),
            ],
            "expected an integer",
        ),
    ],
)
async def test_bad_upload_is_refused_in_the_envelope(client: httpx2.AsyncClient, parts: Any, text: str) -> None:
    answer = await client.post("/upload", files=parts)

    assert answer.status_code == 400
    assert text in answer.json()["error"]["message"]


async def test_body_that_is_no_form_is_refused(client: httpx2.AsyncClient) -> None:
    plain = await client.post("/upload", content=b"x")
    broken = await client.post(
        "/upload", content=b"garbage", headers={"content-type": "multipart/form-data; boundary=b"}
    )
    unbounded = await client.post("/upload", content=b"x", headers={"content-type": "multipart/form-data"})

    assert [answer.status_code for answer in (plain, broken, unbounded)] == [400, 400, 400]


async def test_json_body_has_a_limit(client: httpx2.AsyncClient) -> None:
    assert (await client.post("/body", content=b"x" * BODY_BYTES_MAX)).json() == BODY_BYTES_MAX
    too_large = await client.post("/body", content=b"x" * (BODY_BYTES_MAX + 1))
    assert too_large.status_code == 413
    assert "error" in too_large.json()


async def test_every_failure_has_the_envelope(client: httpx2.AsyncClient) -> None:
    unavailable = await client.get("/fail/unavailable")
    crash = await client.get("/fail/crash")
    invalid = await client.get("/fail/crash", params={"number": "x"})
    unknown, wrong_method = await client.get("/nothing"), await client.put("/upload")

    answers = (unavailable, crash, invalid, unknown, wrong_method)
    assert [answer.status_code for answer in answers] == [503, 500, 400, 404, 405]
    assert all(set(answer.json()["error"]) == {"message", "type", "param", "code"} for answer in answers)
    assert unavailable.headers["retry-after"] == "1"
    assert "secret" not in crash.text


async def test_failure_of_ours_is_in_a_trace_although_its_call_is_not() -> None:
    exporter = MemorySpanExporter()
    telemetry = Telemetry("test", TelemetrySettings(sample_ratio=0.0), exporter)
    transport = httpx2.ASGITransport(app=application(telemetry), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test/v1") as client:
        for path in ("/fail/crash", "/fail/unavailable", "/fail/crash?number=x", "/nothing"):
            await client.get(path)
    telemetry.close()
    spans = [span for span in exporter.get_finished_spans() if span.name == "GET failed"]
    told = [dict(span.attributes or {}) for span in spans]
    assert [(each["error.type"], each["http.response.status_code"]) for each in told] == [
        ("RuntimeError", 500),
        ("UnavailableError", 503),
    ]
    assert "secret" not in str([(span.attributes, span.events) for span in spans])


async def test_health_pages_answer_outside_the_version(client: httpx2.AsyncClient) -> None:
    alive, ready = await client.get("http://test/healthz"), await client.get("http://test/readyz")

    assert alive.json() == {"status": "ok"}
    assert ready.status_code == 503
    assert ready.json()["missing"] == {"workers/m": "none alive"}


async def test_full_disk_is_told_and_worth_another_try(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/fail/full")

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "No space left" in answer.json()["error"]["message"]
