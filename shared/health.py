"""Is this process alive, ready, and how is it? `/healthz`, `/readyz`, `/metrics` of services without an API. SHELL."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.errors import SetupError
from shared.settings import HealthSettings

# What the process needs, by name: why it is not there, or None if it is.
Needs = Callable[[], Mapping[str, str | None]]


# How often the server's `date` header is renewed; uvicorn itself wakes an idle process ten times as often.
TICK_S = 1.0
_TICKS_OF_A_SECOND = 10


class QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers, which belong to `lifecycle`, and without its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Any:
        yield

    def stop(self) -> None:
        """Answer what is under way, then end."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(_TICKS_OF_A_SECOND):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._stopping.wait()


async def start_server(config: uvicorn.Config) -> tuple[QuietServer, asyncio.Task[None]]:
    """Bind and serve; raises SetupError when the port is taken."""
    server = QuietServer(config)
    try:
        listening = config.bind_socket()
    except SystemExit:
        raise SetupError(f"port {config.port} on {config.host} is in use: choose another") from None
    # uvicorn writes head and body apart, and its socket lacks what makes asyncio turn Nagle off: every answer
    # on a kept connection would wait 40 ms for the client's delayed acknowledgement. Accepted sockets inherit this.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    task = asyncio.create_task(server.serve(sockets=[listening]), name="http")
    return server, task


def readiness(needs: Mapping[str, str | None]) -> JSONResponse:
    """The answer of `/readyz`: 503 while something is missing, and how each thing is that the process needs."""
    missing = {name: why for name, why in needs.items() if why is not None}
    told = {name: why or "ok" for name, why in needs.items()}
    body = {"ready": not missing, "missing": missing, "dependencies": told}
    return JSONResponse(body, status_code=503 if missing else 200)


def health_app(needs: Needs) -> Starlette:
    """`/healthz` answers while the loop runs; `/readyz` names what is missing with 503."""

    async def healthz(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> JSONResponse:
        return readiness(needs())

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])


async def metrics(_: Request) -> Response:
    """The process's metrics in Prometheus' text form."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@asynccontextmanager
async def serve_health(settings: HealthSettings, needs: Needs) -> Any:
    """Serve the two paths while the block runs, when a port is set."""
    if settings.port is None:
        yield
        return
    config = uvicorn.Config(
        health_app(needs),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
    )
    server, task = await start_server(config)
    try:
        yield
    finally:
        server.stop()
        await task
