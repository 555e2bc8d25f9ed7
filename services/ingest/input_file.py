"""Which input line is refused, and why? PURE: lines in, problems out; codes and texts as in contract 4.

What needs the model to judge (a prompt too long, a bad parameter) is not decided here: that is the engine's answer.
"""

from collections.abc import Callable

import msgspec

from shared.jsonl import Line
from shared.messages import LineProblem

PROBLEMS_MAX = 100
SHOWN_MAX = 200
CUSTOM_ID_BYTES_MAX = 512
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_value_decoder = msgspec.json.Decoder()
# Code, param, message.
Problem = tuple[str, str | None, str]
_MESSAGES_ENDPOINTS = frozenset({"/v1/chat/completions"})


class _BodyHead(msgspec.Struct):
    """The members of a body that validation looks at; everything else is skipped, not parsed."""

    model: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    stream: msgspec.Raw = msgspec.Raw()


_body_decoder = msgspec.json.Decoder(_BodyHead)


class InputFile:
    """Validates one input file line by line and remembers what lines have to agree on."""

    def __init__(self, *, endpoint: str, serves: Callable[[str], bool], lines_max: int, line_bytes_max: int) -> None:
        self._endpoint = endpoint
        self._serves = serves
        self._lines_max = lines_max
        self._line_bytes_max = line_bytes_max
        self._custom_ids: set[str] = set()
        self.model: str | None = None
        self.num_lines = 0
        self.problems: list[LineProblem] = []

    def check(self, line: Line) -> None:
        """Look at the next line; problems are collected in line order, the first 100 of them."""
        self.num_lines += 1
        if self.num_lines > self._lines_max:
            return  # refused as a whole; nothing more is remembered
        problem = self._problem(line)
        if problem is not None and len(self.problems) < PROBLEMS_MAX:
            code, param, message = problem
            self.problems.append(LineProblem(code=code, message=message, param=param, line=line.number + 1))

    def finish(self) -> tuple[LineProblem, ...]:
        """All problems, those of the file as a whole included."""
        if self.num_lines == 0:
            text = "The input file is empty. Please ensure that the batch contains at least one request."
            return (LineProblem(code="empty_file", message=text),)
        if self.num_lines > self._lines_max:
            text = f"The input file has {self.num_lines} requests. A batch may have at most {self._lines_max}."
            return (LineProblem(code="too_many_requests", message=text), *self.problems[: PROBLEMS_MAX - 1])
        return tuple(self.problems)

    def _problem(self, line: Line) -> Problem | None:
        if line.value is None:
            return "line_too_large", None, f"This line is larger than {self._line_bytes_max} bytes."
        try:
            return self._line_problem(line.value)
        except RecursionError:
            return "invalid_json_line", None, "This line is nested too deeply."

    def _line_problem(self, value: bytes) -> Problem | None:
        try:
            members = _object_decoder.decode(value)
        except msgspec.ValidationError:
            return "invalid_request", None, "Each line must be a JSON object."
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "invalid_json_line", None, "This line is not parseable as valid JSON."
        for name in ("custom_id", "method", "url", "body"):
            if name not in members:
                return "missing_required_parameter", name, f"Missing required parameter: '{name}'."
        return self._member_problem(members) or self._body_problem(members["body"])

    def _member_problem(self, members: dict[str, msgspec.Raw]) -> Problem | None:
        custom_id, method, url = (_value_decoder.decode(members[name]) for name in ("custom_id", "method", "url"))
        if not isinstance(custom_id, str):
            return _wrong_type("custom_id", "a string", custom_id)
        if len(custom_id.encode()) > CUSTOM_ID_BYTES_MAX:
            text = f"The custom_id is longer than {CUSTOM_ID_BYTES_MAX} bytes."
            return "string_above_max_length", "custom_id", text
        if custom_id in self._custom_ids:
            text = (
                f"The custom_id '{custom_id}' for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch."
            )
            return "duplicate_custom_id", "custom_id", text
        self._custom_ids.add(custom_id)
        if method != "POST":
            return "invalid_value", "method", f"Invalid value: {_shown(method)}. Supported values are: 'POST'."
        if not isinstance(url, str):
            return _wrong_type("url", "a string", url)
        if url != self._endpoint:
            text = "The URL provided for this request does not match the batch endpoint."
            return "invalid_url", "url", f"{text} The URL is {_shown(url)}, the endpoint is '{self._endpoint}'."
        return None

    def _body_problem(self, raw: msgspec.Raw) -> Problem | None:
        try:
            body = _body_decoder.decode(raw)
        except msgspec.MsgspecError:
            return _wrong_type("body", "an object", _value_decoder.decode(raw))
        model = _value_decoder.decode(body.model) if bytes(body.model) else None
        if model is None or model == "":
            return "invalid_request", "body.model", "Model parameter is required."
        if not isinstance(model, str):
            return _wrong_type("body.model", "a string", model)
        if self._endpoint in _MESSAGES_ENDPOINTS and not bytes(body.messages):
            return "invalid_request", "body.messages", "Messages parameter is required."
        if bytes(body.stream) == b"true":
            return (
                "streaming_unsupported",
                "body.stream",
                "Chat Completions: Streaming is not supported in the Batch API.",
            )
        return self._model_problem(model)

    def _model_problem(self, model: str) -> Problem | None:
        if self.model is None and self._serves(model):
            self.model = model
        if not self._serves(model):
            return (
                "model_not_found",
                "body.model",
                f"The provided model {_shown(model)} is not supported by the Batch API.",
            )
        if model != self.model:
            text = (
                f"The model {_shown(model)} for this request does not match the rest of the batch. "
                "Each batch must contain requests for a single model."
            )
            return "mismatched_model", "body.model", text
        return None


def _shown(value: object) -> str:
    """A value of the user's inside a message, cut to a length that 100 messages can have."""
    text = str(value)
    return f"'{text[:SHOWN_MAX]}…'" if len(text) > SHOWN_MAX else f"'{text}'"


_TYPE_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "an object",
}


def _wrong_type(param: str, expected: str, value: object) -> Problem:
    got = _TYPE_NAMES.get(type(value), "null")
    return "invalid_type", param, f"Invalid type for '{param}': expected {expected}, but got {got} instead."
