"""Lines that are checked one by one: where each goes, and what becomes of a bad one."""

import json
from typing import Any

import pytest

from services.ingest.growing import Destination, destination_of, refused_line, with_destination
from services.ingest.request_line import BadLine
from shared.messages import BatchCreated, BatchDispatched, Growth
from shared.record_headers import read_completion_headers
from shared.settings import KafkaSettings
from shared.topics import Topics

POOLS = {"m": "m", "adapter": "m", "n": "n"}
BATCH = BatchCreated(
    id="batch_1",
    endpoint="/v1/completions",
    input_file_id="f",
    completion_window="24h",
    created_at=1,
    expires_at=2,
    growth=Growth(name="job", room=50),
)


def line(**more: Any) -> bytes:
    return json.dumps(
        {"custom_id": "c", "method": "POST", "url": "/v1/completions", "body": {"model": "m"}} | more
    ).encode()


@pytest.mark.parametrize("model", POOLS)
def test_line_goes_to_the_workers_of_its_model(model: str) -> None:
    found = destination_of(line(body={"model": model}), "/v1/completions", POOLS.get)
    assert found == Destination(model, POOLS[model])


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (line(body={"model": "x"}), "model_not_found"),
        (line(url="/v1/embeddings"), "invalid_url"),
        (line(body={}), "invalid_request"),
        (b'{"custom_id": "c"}', "missing_required_parameter"),
    ],
)
def test_bad_line_is_an_error_line(value: bytes, code: str) -> None:
    with pytest.raises(BadLine) as refused:
        destination_of(value, "/v1/completions", POOLS.get)
    record = refused_line(Topics(KafkaSettings()), BATCH, 7, value, refused.value)
    headers = read_completion_headers(record.headers)
    assert (headers.line, headers.total, headers.error_code) == (7, 50, code)
    assert json.loads(record.value or b"")["custom_id"] == "c"
    assert json.loads(record.value or b"")["error"]["code"] == code


def test_cursor_learns_the_models_that_lines_name() -> None:
    cursor = BatchDispatched()
    for model, pools, named in (
        ("m", ("m",), "m"),
        ("m", ("m",), "m"),
        ("adapter", ("m",), None),
        ("n", ("m", "n"), None),
        ("m", ("m", "n"), None),
    ):
        cursor = with_destination(cursor, Destination(model, POOLS[model]))
        assert (cursor.pools, cursor.model) == (pools, named)
    assert cursor.served_by == {"adapter": "m"}
    assert [cursor.pool_of(model) for model in POOLS] == list(POOLS.values())
    assert with_destination(cursor, Destination("n", "n")) is cursor
