"""Why did a line fail, in one word, and how often was it so? PURE."""

from collections.abc import Mapping
from typing import Final

import msgspec

# So many different codes are told apart in one batch shard; the others are counted together.
CODES_MAX: Final = 20
OTHER: Final = "other"
CODE_LENGTH_MAX: Final = 64


class _Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None


class _Body(msgspec.Struct):
    error: _Error | None = None


class _Response(msgspec.Struct):
    status_code: int = 0
    body: _Body | None = None


class _Line(msgspec.Struct):
    response: _Response | None = None
    error: _Error | None = None


_body_decoder = msgspec.json.Decoder(_Body)
_line_decoder = msgspec.json.Decoder(_Line)


def error_code_of(status: int, body: bytes) -> str:
    """The code in an error envelope, else its type, else `http_<status>`."""
    try:
        return _code(status, _body_decoder.decode(body).error)
    except (msgspec.MsgspecError, RecursionError):
        return f"http_{status}"


def error_code_of_line(line: bytes) -> str:
    """The code of a finished error line, as `error_code_of` or the worker named it."""
    try:
        found = _line_decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError):
        return OTHER
    if found.response is None:
        return _code(0, found.error)
    return _code(found.response.status_code, found.response.body.error if found.response.body else None)


def add_codes(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts; what comes after the first 20 codes is counted as `other`."""
    for code, count in more.items():
        known = code if code in counts or len(counts) < CODES_MAX else OTHER
        counts[known] = counts.get(known, 0) + count


def _code(status: int, error: _Error | None) -> str:
    code = str(error.code) if error and error.code not in (None, "") else ""
    code = code or (error.type if error and error.type else "") or f"http_{status}"
    return code.encode("ascii", "replace").decode()[:CODE_LENGTH_MAX]
