"""How is an error shaped on the wire? OpenAI's envelope with four keys, on every error, the framework's included."""

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from shared.errors import UnavailableError
from shared.openai_batch import error_envelope

log = structlog.get_logger(__name__)


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
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message, self.param, self.code, self.kind = message, param, code, kind

    def response(self) -> JSONResponse:
        """The answer; a final 409 says that trying again is of no use, since the SDKs would."""
        headers = {"x-should-retry": "false"} if self.status == 409 else {}
        body = error_envelope(self.message, kind=self.kind, param=self.param, code=self.code)
        return JSONResponse(body, status_code=self.status, headers=headers)


def missing_parameter(name: str) -> ApiError:
    """400 for a body field that is required."""
    return ApiError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def invalid_value(name: str, value: object, supported: tuple[str, ...]) -> ApiError:
    """400 for a value outside the supported ones."""
    quoted = [f"'{item}'" for item in supported]
    listed = quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])}, and {quoted[-1]}"
    verb = "Supported values are" if len(quoted) > 1 else "Supported value is"
    return ApiError(400, f"Invalid value: '{value}'. {verb}: {listed}.", param=name, code="invalid_value")


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
    return ApiError(400, text, param=name, code="invalid_type")


def install_error_handlers(app: FastAPI) -> None:
    """Route every kind of failure through the envelope."""

    async def api_error(_: Request, error: Any) -> JSONResponse:
        return error.response()  # type: ignore[no-any-return]

    async def http_error(request: Request, error: Any) -> JSONResponse:
        texts = {404: f"Invalid URL ({request.method} {request.url.path})", 405: "Method not allowed."}
        answer = ApiError(error.status_code, texts.get(error.status_code, str(error.detail)))
        response = answer.response()
        response.headers.update(error.headers or {})
        return response

    async def invalid(_: Request, error: Any) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        return ApiError(400, f"{first['msg']}: '{param}'.", param=param).response()

    async def unavailable(_: Request, error: Any) -> JSONResponse:
        log.warning("dependency unavailable", reason=str(error))
        response = ApiError(503, f"{error}. Try again.", kind="server_error").response()
        response.headers["retry-after"] = "1"
        return response

    async def crash(request: Request, error: Any) -> JSONResponse:
        log.error("request failed", path=request.url.path, exc_info=error)
        return ApiError(500, "The server had an error while processing your request.", kind="server_error").response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(UnavailableError, unavailable)
    app.add_exception_handler(Exception, crash)
