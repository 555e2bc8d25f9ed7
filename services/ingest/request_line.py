"""Is one request line well made? PURE: bytes in, what the line asks for out; codes and texts as in contract 4.

The same for lines of a file and for records of the intake. What lines have to agree on among themselves is decided in
`input_file`; what needs the model to judge (a prompt too long, a bad parameter) is the engine's answer.
"""

from collections.abc import Mapping

import msgspec

from shared.guesses import CUSTOM_ID_BYTES_MAX, NOT_AN_OBJECT_CODE, WRONG_METHOD_CODE, WRONG_TYPE_CODE

SHOWN_MAX = 200
Members = Mapping[str, msgspec.Raw]
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_value_decoder = msgspec.json.Decoder()
_items_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_REQUIRED = ("custom_id", "method", "url", "body")
_MESSAGES_ENDPOINTS = frozenset({"/v1/chat/completions"})
_EMBEDDINGS_ENDPOINT = "/v1/embeddings"


class BadLine(ValueError):
    """What is wrong with a line, as the contract says it; `param` names the member."""

    def __init__(self, code: str, param: str | None, message: str) -> None:
        super().__init__(message)
        self.code, self.param, self.message = code, param, message


class RequestedBody(msgspec.Struct, frozen=True):
    """What a body asks for: the model, and inputs of an embeddings request."""

    model: str
    num_inputs: int = 0


class _BodyHead(msgspec.Struct):
    """The members of a body that are looked at; everything else is skipped, not parsed."""

    model: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    stream: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()


_body_decoder = msgspec.json.Decoder(_BodyHead)


def members_of(value: bytes) -> Members:
    """The members of a line; raises BadLine."""
    try:
        if not value.isascii():
            value.decode()  # what is skipped below is not looked at otherwise
        return _object_decoder.decode(value)
    except msgspec.ValidationError:
        raise BadLine(NOT_AN_OBJECT_CODE, None, "Each line must be a JSON object.") from None
    except RecursionError:
        raise too_deep() from None
    except (msgspec.DecodeError, UnicodeError):
        raise not_json() from None


def check_required(members: Members) -> None:
    """Whether a line has all that it needs; raises BadLine."""
    for name in _REQUIRED:
        if name not in members:
            raise BadLine("missing_required_parameter", name, f"Missing required parameter: '{name}'.")


def too_deep() -> BadLine:
    """For a line that Python cannot follow."""
    return BadLine("invalid_json_line", None, "This line is nested too deeply.")


def not_json() -> BadLine:
    """For a line that is no JSON."""
    return BadLine("invalid_json_line", None, "This line is not parseable as valid JSON.")


def custom_id_of(members: Members) -> str:
    """The caller's id; raises BadLine."""
    custom_id = _value_decoder.decode(members["custom_id"])
    if not isinstance(custom_id, str):
        raise _wrong_type("custom_id", "a string", custom_id)
    if len(custom_id.encode()) > CUSTOM_ID_BYTES_MAX:
        text = f"The custom_id is longer than {CUSTOM_ID_BYTES_MAX} bytes."
        raise BadLine("string_above_max_length", "custom_id", text)
    return custom_id


def url_of(members: Members) -> str:
    """The path that is posted to; raises BadLine."""
    method, url = _value_decoder.decode(members["method"]), _value_decoder.decode(members["url"])
    if method != "POST":
        raise BadLine(WRONG_METHOD_CODE, "method", f"Invalid value: {shown(method)}. Supported values are: 'POST'.")
    if not isinstance(url, str):
        raise _wrong_type("url", "a string", url)
    return url


def body_of(members: Members, endpoint: str) -> RequestedBody:
    """What the body asks for, which is posted to `endpoint`; raises BadLine."""
    try:
        body = _body_decoder.decode(members["body"])
    except msgspec.MsgspecError:
        raise _wrong_type("body", "an object", _value_decoder.decode(members["body"])) from None
    model = _value_decoder.decode(body.model) if bytes(body.model) else None
    if model is None or model == "":
        raise BadLine("invalid_request", "body.model", "Model parameter is required.")
    if not isinstance(model, str):
        raise _wrong_type("body.model", "a string", model)
    if endpoint in _MESSAGES_ENDPOINTS and not bytes(body.messages):
        raise BadLine("invalid_request", "body.messages", "Messages parameter is required.")
    if bytes(body.stream) == b"true":
        text = "Chat Completions: Streaming is not supported in the Batch API."
        raise BadLine("streaming_unsupported", "body.stream", text)
    return RequestedBody(model, _num_inputs(body.input) if endpoint == _EMBEDDINGS_ENDPOINT else 0)


def unknown_model(model: str) -> BadLine:
    """For a model that no worker serves."""
    text = f"The provided model {shown(model)} is not supported by the Batch API."
    return BadLine("model_not_found", "body.model", text)


def shown(value: object) -> str:
    """A value of the user's inside a message, cut to a length that 100 messages can have."""
    text = str(value)
    return f"'{text[:SHOWN_MAX]}…'" if len(text) > SHOWN_MAX else f"'{text}'"


def _num_inputs(raw: msgspec.Raw) -> int:
    """Texts or token lists in an `input`: one, unless it is a list of them."""
    try:
        items = _items_decoder.decode(raw) if bytes(raw).startswith(b"[") else []
    except msgspec.MsgspecError:
        return 1
    return len(items) if items and bytes(items[0]).startswith((b'"', b"[")) else 1


_TYPE_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
}


def _wrong_type(param: str, expected: str, value: object) -> BadLine:
    got = _TYPE_NAMES.get(type(value), "null")
    return BadLine(WRONG_TYPE_CODE, param, f"Invalid type for '{param}': expected {expected}, but got {got} instead.")
