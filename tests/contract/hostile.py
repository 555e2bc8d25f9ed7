"""Bad requests and bad files, by the thousand, each a function of its seed."""

import json
import random
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

GOOD_BATCH = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
GOOD_UPLOAD = {"bytes": 5, "filename": "a.jsonl", "mime_type": "x", "purpose": "batch"}
GOOD_LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "echo", "messages": [{"role": "user", "content": "hi"}]},
}
STRINGS = (
    "",
    "a",
    "\0",
    "ä" * 300,
    "\ud800",
    "../../etc/passwd",
    "%00",
    "a" * 5_000,
    "\u2028",
    "null",
    "-1",
    "9" * 400,
    "{}",
)
SCALARS: tuple[Any, ...] = (None, True, False, 0, -1, 1.5, 10**30, -(2**63) - 1, 1e308, *STRINGS)
PATHS = (
    "/files",
    "/files/{}",
    "/files/{}/content",
    "/files/{}/validate",
    "/uploads",
    "/uploads/{}/parts",
    "/uploads/{}/complete",
    "/uploads/{}/cancel",
    "/batches",
    "/batches/{}",
    "/batches/{}/cancel",
    "/batches/{}/retry",
    "/batches/{}/results",
    "/models/{}",
    "/{}",
)
IDS = ("file-1", "batch_1", "upload_1", "file-" + "a" * 22, "batch_" + "0" * 32, "upload_" + "0" * 32, *STRINGS[:9])
QUERY_NAMES = ("limit", "after", "order", "purpose", "follow", "zzz")


@dataclass(frozen=True, slots=True)
class BadRequest:
    """One call that no client should make."""

    method: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def bad_request(seed: int) -> BadRequest:
    """The request of this seed."""
    rng = random.Random(seed)
    path = rng.choice(PATHS).format(quote(rng.choice(IDS).encode("utf-8", "surrogatepass"), safe=""))
    if rng.random() < 0.3:
        value = quote(str(rng.choice(SCALARS)).encode("utf-8", "surrogatepass"))
        path += f"?{rng.choice(QUERY_NAMES)}={value}"
    method = rng.choice(("GET", "POST", "POST", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"))
    headers = {"content-type": rng.choice(("application/json", "text/plain", "multipart/form-data", "", "\u00e4/x"))}
    if rng.random() < 0.1:
        headers["range"] = rng.choice(("bytes=5-1", "bytes=a-b", "bytes=99999999999999999999-", "x", "bytes=-0"))
    if rng.random() < 0.1:
        headers["idempotency-key"] = rng.choice(("", "a" * 300, "\u00fc"))
    content = b""
    if method in ("POST", "PUT", "PATCH"):
        maker = rng.choice((_json, _json, _form))
        content = maker(rng)
        if maker is _form:
            headers["content-type"] = "multipart/form-data; boundary=" + rng.choice(("x", "x", "x", "y", ""))
    return BadRequest(method, path, content, {k: v.encode("latin-1").decode("latin-1") for k, v in headers.items()})


def _json(rng: random.Random) -> bytes:
    value = dict(rng.choice((GOOD_BATCH, GOOD_UPLOAD, {"part_ids": ["part_1"]}, {"endpoint": "/v1/embeddings"})))
    for _ in range(rng.randint(0, 3)):
        value[rng.choice([*value, "metadata", "expires_after", "output_expires_after", "priority", "md5"])] = _value(
            rng, 2
        )
    return _broken(rng, json.dumps(value).encode("utf-8", "surrogatepass"))


def _value(rng: random.Random, depth: int) -> Any:
    if depth and rng.random() < 0.4:
        if rng.random() < 0.5:
            return [_value(rng, depth - 1) for _ in range(rng.randint(0, 20))]
        return {rng.choice(STRINGS): _value(rng, depth - 1) for _ in range(rng.randint(0, 20))}
    return rng.choice(SCALARS)


def _form(rng: random.Random) -> bytes:
    names = ("file", "purpose", "data", "expires_after[anchor]", "expires_after[seconds]", "", 'a"b', "x" * 300)
    body = b""
    for _ in range(rng.randint(0, 4)):
        name = rng.choice(names)
        file = f'; filename="{rng.choice((*STRINGS[:4], "a.jsonl", "a.txt"))}"' if rng.random() < 0.6 else ""
        body += f'--x\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode("utf-8", "surrogatepass")
        body += (
            rng.choice((b"batch", b"", b"user_data", b"3600", b"created_at", b"\xff\xfe", b"--x", rng.randbytes(50)))
            + b"\r\n"
        )
    return _broken(rng, body + b"--x--\r\n")


def bad_file(seed: int) -> bytes:
    """The input file of this seed."""
    rng = random.Random(seed)
    lines = []
    for _ in range(rng.randint(0, 6)):
        line: Any = json.loads(json.dumps(GOOD_LINE))
        for _ in range(rng.randint(0, 2)):
            target = rng.choice((line, line["body"] if isinstance(line.get("body"), dict) else line))
            target[rng.choice((*target, "model", "stream", "custom_id"))] = _value(rng, 3)
        lines.append(_broken(rng, json.dumps(line).encode("utf-8", "surrogatepass")))
    ending = rng.choice((b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b"\0\n"))
    return (
        rng.choice((b"", b"", b"\xef\xbb\xbf", b"\xff\xfe")) + ending.join(lines) + rng.choice((b"", ending, b" \n\n"))
    )


def _broken(rng: random.Random, data: bytes) -> bytes:
    """The bytes, most of the time with some damage."""
    position = rng.randint(0, len(data))
    match rng.randint(0, 11):
        case 0:
            return data[:position]
        case 1:
            return data[:position] + rng.randbytes(3) + data[position:]
        case 2:
            return data[:position] + b"\0" + data[position:]
        case 3:
            return b"[" * 20_000
        case 4:
            return b'{"a":' * 5_000 + b"1" + b"}" * 5_000
        case 5:
            return data.replace(b'"a"', b'"a", "custom_id": "b"', 1).replace(b"5", b"9" * 400, 1)
        case 6:
            return data.replace(b'"', b"'")
        case _:
            return data
