"""Which refusals does the API know? PURE: status, message, param and code, as in contract 6.1."""

from typing import Any

from shared.guesses import TOO_MANY_CODE, UNKNOWN_AFTER_STATUS, WRONG_TYPE_CODE
from shared.openai_batch import error_envelope


class ApiError(Exception):
    """A refusal with its status and envelope."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
        self.message, self.param, self.code, self.kind = message, param, code, kind

    def headers(self) -> dict[str, str]:
        """When to come back; a final 409 or 429 says that trying again is of no use, since the SDKs would."""
        if self.retry_after_s is not None:
            return {"retry-after": str(self.retry_after_s)}
        return {"x-should-retry": "false"} if self.status in (409, 429) else {}

    def envelope(self) -> dict[str, Any]:
        """The body of the answer."""
        return error_envelope(self.message, kind=self.kind, param=self.param, code=self.code)


def missing_parameter(name: str) -> ApiError:
    """400 for a body field that is required."""
    return ApiError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def too_many(message: str, retry_after_s: int | None) -> ApiError:
    """429; `retry_after_s` is None when waiting does not help."""
    return ApiError(429, message, code=TOO_MANY_CODE, kind="rate_limit_error", retry_after_s=retry_after_s)


def not_found_file(file_id: str, param: str = "id") -> ApiError:
    """404 for a file that the tenant does not have."""
    status = UNKNOWN_AFTER_STATUS if param == "after" else 404
    return ApiError(status, f"No such File object: {file_id}", param=param)


def not_found_batch(batch_id: str, param: str | None = None) -> ApiError:
    """404 for a batch that the tenant does not have."""
    status = UNKNOWN_AFTER_STATUS if param == "after" else 404
    return ApiError(status, f"No batch found with id '{batch_id}'.", param=param)


def invalid_value(name: str, value: object, supported: tuple[str, ...]) -> ApiError:
    """400 for a value outside the supported ones."""
    quoted = [f"'{item}'" for item in supported]
    listed = " and ".join(quoted) if len(quoted) < 3 else f"{', '.join(quoted[:-1])}, and {quoted[-1]}"
    text = f"Invalid value: '{value}'. Supported values are: {listed}."
    return ApiError(400, text, param=name, code="invalid_value")


def wrong_type(name: str, expected: str, value: object) -> ApiError:
    """400 for a value of another JSON type."""
    names = {
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a decimal",
        list: "an array",
        dict: "an object",
    }
    got = names.get(type(value), "null")
    text = f"Invalid type for '{name}': expected {expected}, but got {got} instead."
    return ApiError(400, text, param=name, code=WRONG_TYPE_CODE)
