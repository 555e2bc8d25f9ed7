"""What is the HTTP application made of? Routes with and without `/v1`, health, error handlers, headers; no logic."""

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.responses import JSONResponse

from services.ingest.api.error_handlers import install_error_handlers
from services.ingest.api.headers import OpenAIHeaders

HEALTH_PATHS = ("/healthz", "/readyz")


def _is_health(scope: MutableMapping[str, Any]) -> bool:
    return scope["path"] in HEALTH_PATHS


def create_app(routers: Sequence[APIRouter], not_ready: Callable[[], dict[str, str]]) -> FastAPI:
    """The application; `not_ready` names what is missing."""
    app = FastAPI(
        title="Headrace",
        docs_url=None,
        redoc_url=None,
        telemetry=TelemetryConfig(operation_spans=False, exclude=_is_health),
    )
    for router in routers:
        app.include_router(router, prefix="/v1")
        app.include_router(router)

    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    async def readyz() -> JSONResponse:
        missing = not_ready()
        return JSONResponse({"ready": not missing, "missing": missing}, status_code=503 if missing else 200)

    app.add_api_route("/healthz", healthz, methods=["GET"])
    app.add_api_route("/readyz", readyz, methods=["GET"])
    install_error_handlers(app)
    app.add_middleware(OpenAIHeaders)
    return app
