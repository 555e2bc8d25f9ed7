"""Multipart forms, however they are cut into chunks."""

from collections.abc import AsyncIterator

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.ingest.test_http_edges import application

BOUNDARY = "b0undary"
HEADERS = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
_TEXT = st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n'), min_size=1, max_size=30)


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    """One part of a form."""
    file = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + value + b"\r\n"


async def post(body: bytes, cuts: list[int]) -> httpx2.Response:
    """Send the body cut at these places, without a length."""
    places = sorted({cut % (len(body) + 1) for cut in cuts})

    async def chunks() -> AsyncIterator[bytes]:
        for first, last in zip([0, *places], [*places, len(body)], strict=True):
            yield body[first:last]

    transport = httpx2.ASGITransport(app=application(), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test/v1") as client:
        return await client.post("/upload", content=chunks(), headers=HEADERS)


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.characters(codec="utf-8"), max_size=400),
    _TEXT.map(lambda name: name.replace("/", "_")),
    st.booleans(),
    st.lists(st.integers(0, 5_000), max_size=12),
)
async def test_a_file_arrives_as_it_was_sent_wherever_it_is_cut(
    content: str, name: str, file_first: bool, cuts: list[int]
) -> None:
    value = content.encode()
    if BOUNDARY.encode() in value or len(value) > 2_000:
        return
    parts = [part("file", value, f"{name}.jsonl"), part("purpose", b"batch")]
    body = b"".join(parts if file_first else parts[::-1]) + f"--{BOUNDARY}--\r\n".encode()

    answer = await post(body, cuts)

    assert answer.status_code == 200, answer.text
    assert answer.json()["bytes"] == len(value)
    assert answer.json()["filename"] == f"{name}.jsonl"


_DAMAGE = st.tuples(st.integers(0, 400), st.integers(0, 40), st.binary(max_size=12))


# What was cut off inside a file is closed when its parser goes, and not before.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@settings(max_examples=400, deadline=None)
@given(st.lists(_DAMAGE, min_size=1, max_size=4), st.booleans(), st.lists(st.integers(0, 500), max_size=4))
async def test_damaged_form_is_taken_or_refused_in_the_envelope(
    damage: list[tuple[int, int, bytes]], file_first: bool, cuts: list[int]
) -> None:
    parts = [part("file", b'{"a": 1}\n' * 5, "in.jsonl"), part("purpose", b"batch")]
    body = b"".join(parts if file_first else parts[::-1]) + f"--{BOUNDARY}--\r\n".encode()
    for at, length, inserted in damage:
        body = body[:at] + inserted + body[at + length :]

    answer = await post(body, cuts)

    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
