"""How do lines look on the wire? The request line that we read, the output and error lines that we write. PURE.

Lines are one JSON object, ASCII only (clients split with `splitlines`, which also breaks at U+2028 and
friends), a space after `:` and `,` at the top level, `\\n` at the end (contract section 5). The answer's
body is spliced in as it came; only characters that would break a line are rewritten.
"""

import codecs
import json
import re
from typing import Any

import msgspec

CHAT_ENDPOINT = "/v1/chat/completions"
ENDPOINTS = ("/v1/responses", CHAT_ENDPOINT, "/v1/embeddings", "/v1/completions")

# What the conventions for generative AI call a call to each endpoint.
_OPERATIONS = {CHAT_ENDPOINT: "chat", "/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}

EXPIRED_CODE = "batch_expired"
EXPIRED_MESSAGE = "This request could not be executed before the completion window expired."
CANCELLED_CODE = "batch_cancelled"
# Of a request without a batch.
REQUEST_EXPIRED_CODE = "request_expired"
REQUEST_EXPIRED_MESSAGE = "This request could not be executed before its deadline."

_RAW_BREAKS = re.compile(rb"[\r\n]+")


class RequestLine(msgspec.Struct, frozen=True):
    """A validated line of an input file; `body` is the user's JSON, byte for byte."""

    custom_id: str
    url: str
    body: msgspec.Raw
    method: str = "POST"


class _EnvelopeError(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _Envelope(msgspec.Struct):
    error: _EnvelopeError | None = None


class _ModelOnly(msgspec.Struct):
    model: str = ""


class _BodyModel(msgspec.Struct):
    body: _ModelOnly


class _Prompt(msgspec.Struct):
    instructions: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()


_line_decoder = msgspec.json.Decoder(RequestLine)
_prompt_decoder = msgspec.json.Decoder(_Prompt)
# So much of a prompt says which others it is like.
PROMPT_BYTES = 4096
_model_decoder = msgspec.json.Decoder(_BodyModel)


def operation_of(url: str) -> str:
    """`gen_ai.operation.name` of a request to an endpoint."""
    return _OPERATIONS.get(url, "generate_content")


def decode_request_line(value: bytes) -> RequestLine:
    """Parse a line that was validated before it was published; raises msgspec.MsgspecError otherwise."""
    return _line_decoder.decode(value)


def model_of_line(value: bytes) -> str:
    """The model that a validated line names."""
    return _model_decoder.decode(value).body.model


def _escape_character(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return json.dumps(text)[1:-1], error.end


def prompt_of(body: bytes) -> bytes:
    """The beginning of what the model reads, as it is written in the body; empty when there is none to be seen."""
    try:
        found = _prompt_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return b""
    return b"".join((found.instructions, found.messages, found.prompt, found.input))[:PROMPT_BYTES]


codecs.register_error("headrace.json", _escape_character)


def to_ascii_json(body: bytes) -> bytes:
    """The same JSON value on one line of ASCII.

    Outside strings JSON has no non-ASCII character and inside them no raw line break, so both can be
    rewritten without parsing. Raises UnicodeDecodeError when the body is not UTF-8.
    """
    if not body.isascii():
        body = body.decode().encode("ascii", "headrace.json")
    if b"\n" in body or b"\r" in body:
        body = _RAW_BREAKS.sub(b" ", body)
    return body.strip()


def answered_line(*, request_id: str, custom_id: str, status: int, body: bytes, error: bytes = b"null") -> bytes:
    """An output line (status 200) or an HTTP-level error line, with its newline.

    `request_id` depends on (batch id, line) alone, so a line that ran twice names itself the same; `body` is a JSON
    object in UTF-8, `error` the JSON of the top-level member.
    """
    name = request_id.encode()
    return (
        b'{"id": "%b", "custom_id": %b, "response": '
        b'{"status_code": %d, "request_id": "%b", "body": %b}, "error": %b}\n'
        % (
            name,
            json.dumps(custom_id).encode(),
            status,
            name,
            to_ascii_json(body),
            error,
        )
    )


def duplicated_error(status: int, body: bytes) -> bytes:
    """The top-level member that repeats what an HTTP failure's body says, for clients that look only there."""
    try:
        found = msgspec.json.decode(body, type=_Envelope).error or _EnvelopeError()
    except (msgspec.MsgspecError, RecursionError):
        found = _EnvelopeError()
    code, message = found.code or found.type or f"http_{status}", found.message or f"HTTP status {status}"
    return json.dumps({"code": code, "message": message}).encode()


def unanswered_line(*, answer_id: str, custom_id: str, code: str, message: str) -> bytes:
    """An error line for a request that never got an HTTP answer, with its newline."""
    value = {
        "id": answer_id,
        "custom_id": custom_id,
        "response": None,
        "error": {"code": code, "message": message},
    }
    return json.dumps(value).encode() + b"\n"


def error_envelope(
    message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error object, all four keys (contract 2.5)."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
