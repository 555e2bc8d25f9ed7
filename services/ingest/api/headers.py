"""Which headers does every answer carry? ASGI middleware: request id, processing time, API version (contract 6.2)."""

import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPENAI_VERSION = "2020-10-01"


class OpenAIHeaders:
    """Adds the headers that the SDKs and their users read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
                headers["openai-processing-ms"] = str(round((time.perf_counter() - began) * 1000))
                headers["openai-version"] = OPENAI_VERSION
                _add_caller(headers, scope)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _add_caller(headers: MutableHeaders, scope: Scope) -> None:
    """Who the gate found; pages of any origin may read files when they have a key, and only then."""
    principal = scope.get("state", {}).get("principal")
    if principal is None:
        return
    headers["openai-organization"] = principal.tenant
    if principal.key_id is not None and "/files" in scope["path"]:
        headers["access-control-allow-origin"] = "*"
