"""What is the HTTP application made of? Routes with and without `/v1`, health, error handlers, headers; no logic."""

from collections.abc import MutableMapping, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from services.ingest.api.error_handlers import install_error_handlers
from services.ingest.api.headers import OpenAIHeaders
from services.ingest.api.openapi import document
from shared.health import Needs, readiness
from shared.telemetry import Telemetry

HEALTH_PATHS = ("/healthz", "/readyz")


def _is_health(scope: MutableMapping[str, Any]) -> bool:
    return scope["path"] in HEALTH_PATHS


def create_app(routers: Sequence[APIRouter], needs: Needs, telemetry: Telemetry) -> ASGIApp:
    """The application; `needs` says how what it depends on is."""
    app = FastAPI(
        title="Headrace",
        redoc_url=None,
        telemetry=TelemetryConfig(
            operation_spans=False,
            logs=False,  # which would have the texts of exceptions; error_handlers.py tells them to ours
            exclude=_is_health,
            tracer_provider=telemetry.tracers,
            meter_provider=telemetry.meters,
        ),
    )
    for router in routers:
        app.include_router(router, prefix="/v1")
        app.include_router(router)

    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    async def readyz() -> JSONResponse:
        return readiness(needs())

    app.add_api_route("/healthz", healthz, methods=["GET"], include_in_schema=False)
    app.add_api_route("/readyz", readyz, methods=["GET"], include_in_schema=False)
    app.openapi = lambda: document(version("headrace"))  # type: ignore[method-assign]
    install_error_handlers(app, telemetry)
    return OpenAIHeaders(app)  # around everything, so that an answer to a crash has them too
