"""What is in a JSON body? PURE: bytes in, checked members out; codes and texts as in contract 6.1."""

from typing import Any

import msgspec

from services.ingest.api.errors import ApiError, missing_parameter, wrong_type


def parse_json_object(body: bytes) -> dict[str, Any]:
    """The body of a JSON call; raises ApiError."""
    try:
        value = msgspec.json.decode(body or b"null")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = "We could not parse the JSON body of your request."
        raise ApiError(400, text) from None
    if not isinstance(value, dict):
        raise ApiError(400, "The body of your request must be a JSON object.")
    return value


def required_string(value: dict[str, Any], name: str) -> str:
    """A member that must be there and be a string; raises ApiError."""
    if value.get(name) is None:
        raise missing_parameter(name)
    if not isinstance(value[name], str):
        raise wrong_type(name, "a string", value[name])
    text: str = value[name]
    return text


def optional_string(value: dict[str, Any], name: str) -> str | None:
    """A member that may be absent or null; raises ApiError."""
    return None if value.get(name) is None else required_string(value, name)


def checked_integer(name: str, number: object, minimum: int, maximum: int) -> int:
    """An integer in a range; raises ApiError with OpenAI's codes."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise wrong_type(name, "an integer", number)
    if number > maximum:
        text = (
            f"Invalid '{name}': integer above maximum value. Expected a value <= {maximum}, but got {number} instead."
        )
        raise ApiError(400, text, param=name, code="integer_above_max_value")
    if number < minimum:
        text = (
            f"Invalid '{name}': integer below minimum value. Expected a value >= {minimum}, but got {number} instead."
        )
        raise ApiError(400, text, param=name, code="integer_below_min_value")
    return number
