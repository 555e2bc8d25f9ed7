"""A batch through the Python SDK, strict about every shape: `python sdk_scenario.py BASE_URL`; needs `openai` alone.

Runs under the 1.x, 2.x and 3.x generations. Prints one line of JSON, or ends with an exception.
"""

import hashlib
import json
import sys
import time
from itertools import islice
from typing import Any

import openai
from openai import OpenAI

NUM_LINES = 60
TERMINAL = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str, model: str = "echo", **body: Any) -> dict[str, Any]:
    """One request."""
    content = {"model": model, "messages": [{"role": "user", "content": f"hello {custom_id}"}]} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": content}


def jsonl(lines: list[dict[str, Any]]) -> bytes:
    """Lines as a file."""
    return b"".join(json.dumps(item).encode() + b"\n" for item in lines)


def ended(client: OpenAI, batch_id: str) -> Any:
    """The batch once it is over."""
    deadline = time.monotonic() + 60
    while (batch := client.batches.retrieve(batch_id)).status not in TERMINAL:
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
    return batch


def refused(kind: type[openai.APIStatusError], call: Any) -> openai.APIStatusError:
    """The error of a call that has to fail so."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def files(client: OpenAI) -> str:
    """Upload, list, download, delete; the id of a file that stays."""
    data = jsonl([line(f"r{n}") for n in range(NUM_LINES)])
    named = client.files.create(file=("dir/input.jsonl", data), purpose="batch")
    assert (named.filename, named.bytes, named.status) == ("input.jsonl", len(data), "processed")
    assert named.expires_at == named.created_at + 30 * 86_400
    raw = client.files.create(file=data, purpose="batch")
    assert raw.filename == "upload"
    assert client.files.wait_for_processing(raw.id, poll_interval=0.01).id == raw.id
    assert client.files.retrieve(named.id) == named
    assert client.files.content(named.id).read() == data
    assert [item.id for item in islice(client.files.list(purpose="batch", limit=1), 2)] == [raw.id, named.id]
    assert next(iter(client.files.list(order="asc", after=named.id))).id == raw.id
    assert client.files.delete(raw.id).deleted is True
    gone = refused(openai.NotFoundError, lambda: client.files.delete(raw.id))
    assert gone.body == {
        "message": f"No such File object: {raw.id}",
        "type": "invalid_request_error",
        "param": "id",
        "code": None,
    }
    return named.id


def uploads(client: OpenAI) -> None:
    """Parts out of order."""
    data = jsonl([line(f"u{n}") for n in range(20)])
    upload = client.uploads.create(bytes=len(data), filename="u.jsonl", mime_type="application/jsonl", purpose="batch")
    second = client.uploads.parts.create(upload.id, data=data[100:])
    first = client.uploads.parts.create(upload.id, data=data[:100])
    short = refused(openai.BadRequestError, lambda: client.uploads.complete(upload.id, part_ids=[first.id]))
    assert short.param == "part_ids"
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    done = client.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=md5)
    assert done.file is not None
    assert client.files.content(done.file.id).read() == data
    other = client.uploads.create(bytes=1, filename="u.jsonl", mime_type="application/jsonl", purpose="batch")
    assert client.uploads.cancel(other.id).status == "cancelled"
    refused(openai.BadRequestError, lambda: client.uploads.parts.create(other.id, data=b"x"))


def create(client: OpenAI, file_id: str, **more: Any) -> Any:
    """A batch."""
    return client.batches.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", **more
    )


def batches(client: OpenAI, file_id: str) -> str:
    """Create, poll, list, refuse; the id of the batch."""
    batch = create(client, file_id, metadata={"k": "v"})
    assert batch.status == "validating"
    assert batch.expires_at == batch.created_at + 86_400
    assert (batch.request_counts.total, batch.in_progress_at, batch.errors) == (0, None, None)
    batch = ended(client, batch.id)
    assert batch.status == "completed", batch
    assert (batch.request_counts.total, batch.request_counts.completed) == (NUM_LINES, NUM_LINES)
    assert batch.error_file_id is None
    text = client.files.content(batch.output_file_id).text
    assert [json.loads(item)["custom_id"] for item in text.splitlines()] == [f"r{n}" for n in range(NUM_LINES)]
    assert next(iter(client.batches.list(limit=1))).id == batch.id
    late = refused(openai.ConflictError, lambda: client.batches.cancel(batch.id))
    assert "Cannot cancel a batch with status 'completed'." in str(late)
    assert late.request_id is not None
    assert late.request_id.startswith("req_")
    refused(openai.NotFoundError, lambda: client.batches.retrieve("batch_missing"))
    wrong = refused(openai.BadRequestError, lambda: create(client, "file-missing"))
    assert (wrong.param, wrong.code) == ("file_id", "invalid_request")
    return str(batch.id)


def failing(client: OpenAI) -> None:
    """A file with bad lines fails as a whole; failing lines do not."""
    bad = client.files.create(file=b'{"x"\n' + jsonl([line("a"), line("a")]), purpose="batch")
    batch = ended(client, create(client, bad.id).id)
    assert batch.status == "failed"
    assert [(item.line, item.code) for item in batch.errors.data] == [
        (1, "invalid_json_line"),
        (3, "duplicate_custom_id"),
    ]
    mixed = client.files.create(file=jsonl([line("good"), line("bad", messages=[{}])]), purpose="batch")
    batch = ended(client, create(client, mixed.id).id)
    assert (batch.status, batch.request_counts.failed) == ("completed", 1), batch
    entry = json.loads(client.files.content(batch.error_file_id).text)
    assert (entry["custom_id"], entry["response"]["status_code"], entry["error"]) == ("bad", 400, None)


def main() -> None:
    """Everything, once."""
    client = OpenAI(base_url=sys.argv[1], api_key="unused", _strict_response_validation=True, max_retries=0)
    file_id = files(client)
    uploads(client)
    batch_id = batches(client, file_id)
    failing(client)
    print(json.dumps({"openai": openai.__version__, "batch": batch_id}))


if __name__ == "__main__":
    main()
