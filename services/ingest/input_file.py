"""Which input line is refused, and why? PURE: lines in, problems out; codes and texts as in contract 4.

What needs the model to judge (a prompt too long, a bad parameter) is not decided here: that is the engine's answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from shared.guesses import (
    CUSTOM_ID_BYTES_MAX,
    LINE_TOO_LARGE_CODE,
    NOT_AN_OBJECT_CODE,
    PROBLEMS_MAX,
    TOO_MANY_INPUTS_CODE,
    TOO_MANY_LINES_CODE,
    WRONG_METHOD_CODE,
    WRONG_TYPE_CODE,
)
from shared.jsonl import Line
from shared.messages import LineProblem

SHOWN_MAX = 200
# Ids are remembered by 60 bits of their keyed hash, in two thirds of the memory of a short id and a tenth of a long
# one's; that two of a million differ and share theirs happens in one file of two million.
_SHORT_HASH = 2**60 - 1
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_value_decoder = msgspec.json.Decoder()
_items_decoder = msgspec.json.Decoder(list[msgspec.Raw])
# Code, param, message.
Problem = tuple[str, str | None, str]
_MESSAGES_ENDPOINTS = frozenset({"/v1/chat/completions"})
_EMBEDDINGS_ENDPOINT = "/v1/embeddings"


class _BodyHead(msgspec.Struct):
    """The members of a body that validation looks at; everything else is skipped, not parsed."""

    model: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    stream: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True, slots=True)
class LineRules:
    """What the lines of one file have to fit.

    `queued_lines_max` is what the tenant may still have waiting, `embedding_inputs_max` holds for all lines together;
    None is no limit. With a `default_model` a line that names an unknown one is not refused: its workers answer it.
    """

    endpoint: str
    lines_max: int
    line_bytes_max: int
    queued_lines_max: int | None = None
    embedding_inputs_max: int | None = None
    several_models: bool = False
    default_model: str | None = None


_body_decoder = msgspec.json.Decoder(_BodyHead)


class InputFile:
    """Validates one input file line by line and remembers what lines have to agree on."""

    def __init__(self, rules: LineRules, pool_of: Callable[[str], str | None]) -> None:
        """`pool_of` = the model whose workers serve a model, itself as a rule; None for an unknown one."""
        self._rules = rules
        self._pool_of = pool_of
        self._custom_ids: set[int] = set()
        self._named: str | None = None
        self._names_several = self._names_unknown = False
        self._pool_by_model: dict[str, str] = {}
        self._num_inputs = 0
        self.num_lines = 0
        self.problems: list[LineProblem] = []

    @property
    def model(self) -> str | None:
        """The model that all lines name, if it is one."""
        return None if self._names_several else self._named

    @property
    def pools(self) -> tuple[str, ...]:
        """The models whose workers get the lines, when that is not simply the one that is named."""
        if not self._pool_by_model:
            default = self._rules.default_model
            return (default,) if self._names_unknown and default is not None else ()
        pools = tuple(dict.fromkeys(self._pool_by_model.values()))
        return () if pools == (self.model,) else pools

    @property
    def served_by(self) -> dict[str, str]:
        """Models that another one's workers serve, and which."""
        return {model: pool for model, pool in self._pool_by_model.items() if model != pool}

    def check(self, line: Line) -> None:
        """Look at the next line; problems are collected in line order, the first 100 of them."""
        self.num_lines += 1
        if self.num_lines > self._rules.lines_max:
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
        if self.num_lines > self._rules.lines_max:
            text = f"The input file has {self.num_lines} requests. A batch may have at most {self._rules.lines_max}."
            return (LineProblem(code=TOO_MANY_LINES_CODE, message=text), *self.problems[: PROBLEMS_MAX - 1])
        return (*self._limit_problems(), *self.problems)[:PROBLEMS_MAX]

    def _limit_problems(self) -> list[LineProblem]:
        rules, problems = self._rules, []
        if rules.queued_lines_max is not None and self.num_lines > rules.queued_lines_max:
            text = (
                f"Enqueued line limit reached: {self.num_lines} lines do not fit, {rules.queued_lines_max} more are "
                "allowed. Please try again once some in_progress batches have been completed."
            )
            problems.append(LineProblem(code="token_limit_exceeded", message=text))
        if rules.embedding_inputs_max is not None and self._num_inputs > rules.embedding_inputs_max:
            text = (
                f"The input file has {self._num_inputs} inputs. A batch may have at most {rules.embedding_inputs_max}."
            )
            problems.append(LineProblem(code=TOO_MANY_INPUTS_CODE, message=text))
        return problems

    def _problem(self, line: Line) -> Problem | None:
        if line.value is None:
            return LINE_TOO_LARGE_CODE, None, f"This line is larger than {self._rules.line_bytes_max} bytes."
        try:
            if not line.value.isascii():
                line.value.decode()  # what is skipped below is not looked at otherwise
            return self._line_problem(line.value)
        except RecursionError:
            return "invalid_json_line", None, "This line is nested too deeply."
        except (msgspec.DecodeError, UnicodeError):
            return "invalid_json_line", None, "This line is not parseable as valid JSON."

    def _line_problem(self, value: bytes) -> Problem | None:
        try:
            members = _object_decoder.decode(value)
        except msgspec.ValidationError:
            return NOT_AN_OBJECT_CODE, None, "Each line must be a JSON object."
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
        if (short := hash(custom_id) & _SHORT_HASH) in self._custom_ids:
            text = (
                f"The custom_id '{custom_id}' for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch."
            )
            return "duplicate_custom_id", "custom_id", text
        self._custom_ids.add(short)
        if method != "POST":
            return WRONG_METHOD_CODE, "method", f"Invalid value: {_shown(method)}. Supported values are: 'POST'."
        if not isinstance(url, str):
            return _wrong_type("url", "a string", url)
        if url != self._rules.endpoint:
            text = "The URL provided for this request does not match the batch endpoint."
            return "invalid_url", "url", text
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
        if self._rules.endpoint in _MESSAGES_ENDPOINTS and not bytes(body.messages):
            return "invalid_request", "body.messages", "Messages parameter is required."
        if bytes(body.stream) == b"true":
            return (
                "streaming_unsupported",
                "body.stream",
                "Chat Completions: Streaming is not supported in the Batch API.",
            )
        if self._rules.endpoint == _EMBEDDINGS_ENDPOINT:
            self._num_inputs += _num_inputs(body.input)
        return self._model_problem(model)

    def _model_problem(self, model: str) -> Problem | None:
        pool = self._pool_of(model)
        if pool is None and self._rules.default_model is None:
            text = f"The provided model {_shown(model)} is not supported by the Batch API."
            return "model_not_found", "body.model", text
        others = self._pool_by_model
        if pool is not None and others and model not in others and not self._rules.several_models:
            text = (
                f"The model {_shown(model)} for this request does not match the rest of the batch. "
                "Each batch must contain requests for a single model."
            )
            return "mismatched_model", "body.model", text
        if pool is not None:
            self._pool_by_model[model] = pool
        self._names_unknown |= pool is None
        self._names_several |= self._named not in (None, model)
        self._named = model
        return None


def _num_inputs(raw: msgspec.Raw) -> int:
    """Texts or token lists in an `input`: one, unless it is a list of them."""
    try:
        items = _items_decoder.decode(raw) if bytes(raw).startswith(b"[") else []
    except msgspec.MsgspecError:
        return 1
    return len(items) if items and bytes(items[0]).startswith((b'"', b"[")) else 1


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
    return WRONG_TYPE_CODE, param, f"Invalid type for '{param}': expected {expected}, but got {got} instead."
