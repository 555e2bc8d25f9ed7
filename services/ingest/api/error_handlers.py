"""How is an error shaped on the wire? OpenAI's envelope with four keys, on every error, the framework's included."""

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from services.ingest.api.errors import ApiError, too_many
from services.ingest.quota import QuotaReached
from shared.errors import UnavailableError
from shared.span_attributes import Attributes
from shared.telemetry import Telemetry
from shared.trace_context import traceparent_of

log = structlog.get_logger(__name__)


def _answer(error: ApiError) -> JSONResponse:
    return JSONResponse(error.envelope(), status_code=error.status, headers=error.headers())


def install_error_handlers(app: FastAPI, telemetry: Telemetry) -> None:
    """Route every kind of failure through the envelope; those that are ours are in a trace, sampled or not."""

    def trace_failure(request: Request, error: Exception, status: int) -> None:
        current = trace.get_current_span()
        if current.get_span_context().trace_flags.sampled:
            return  # the call's own span says so
        attributes: Attributes = {"http.request.method": request.method, "url.path": request.url.path}
        attributes["http.response.status_code"] = status
        name = type(error).__name__
        telemetry.failure(f"{request.method} failed", name, attributes, parent=traceparent_of(current))

    async def api_error(_: Request, error: Any) -> JSONResponse:
        return _answer(error)

    async def quota_reached(_: Request, error: Any) -> JSONResponse:
        return _answer(too_many(str(error), error.retry_after_s))

    async def http_error(request: Request, error: Any) -> JSONResponse:
        texts = {404: f"Invalid URL ({request.method} {request.url.path})", 405: "Method not allowed."}
        answer = ApiError(error.status_code, texts.get(error.status_code, str(error.detail)))
        response = _answer(answer)
        response.headers.update(error.headers or {})
        return response

    async def invalid(_: Request, error: Any) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        return _answer(ApiError(400, f"{first['msg']}: '{param}'.", param=param))

    async def unavailable(request: Request, error: Any) -> JSONResponse:
        trace_failure(request, error, 503)
        log.warning("dependency unavailable", reason=str(error))
        response = _answer(ApiError(503, f"{error}. Try again.", kind="server_error"))
        response.headers["retry-after"] = "1"
        return response

    async def no_room(request: Request, error: Any) -> JSONResponse:
        trace_failure(request, error, 503)
        log.error("this machine lacks room", reason=str(error))
        response = _answer(ApiError(503, f"The server has no room: {error.strerror}. Try again.", kind="server_error"))
        response.headers["retry-after"] = "5"
        return response

    async def crash(request: Request, error: Any) -> JSONResponse:
        trace_failure(request, error, 500)
        log.error("request failed", path=request.url.path, exc_info=error)
        text = "The server had an error while processing your request."
        return _answer(ApiError(500, text, kind="server_error"))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(QuotaReached, quota_reached)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(UnavailableError, unavailable)
    app.add_exception_handler(OSError, no_room)  # a full disk, too many open files
    app.add_exception_handler(Exception, crash)
