"""How is a line put to vLLM? PURE: a request in, an ASGI scope or a body out; vLLM itself is not needed for it."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from services.inference.engine import EngineRequest, EngineTimes

# The body is the user's: what would change how the worker is answered is overwritten.
FORCED_FIELDS: Mapping[str, Any] = {"stream": False, "background": False}
# On CPU a seeded request whose prompt takes more than one step kills vLLM's engine core, and every other request with
# it (`gen.get_offset()` of a CPU generator, vLLM 0.32). A seed promises best effort only, so it is left out there.
FORCED_FIELDS_ON_CPU: Mapping[str, Any] = {"seed": None}


def fields_of(request: EngineRequest, forced: Mapping[str, Any]) -> dict[str, Any]:
    """What replaces the user's own members; lower priorities run first, and ties by arrival."""
    return {**forced, "request_id": request.request_id, "priority": request.priority}


def body_without(request: EngineRequest, forced: Mapping[str, Any]) -> bytes:
    """The body without the members that a worker decides itself; vLLM's defaults are what we want of them."""
    try:
        value = json.loads(request.body)
    except ValueError:
        return request.body
    if not isinstance(value, dict):
        return request.body
    decided = fields_of(request, forced).keys()
    return json.dumps({key: item for key, item in value.items() if key not in decided}).encode()


class _Named(msgspec.Struct):
    model: object = None


def model_of_body(body: bytes) -> str:
    """The model that a body names, or the empty string."""
    try:
        model = msgspec.json.decode(body, type=_Named).model
    except (msgspec.MsgspecError, RecursionError):
        return ""
    return model if isinstance(model, str) else ""


def scope_of(request: EngineRequest, app: Any) -> dict[str, Any]:
    """The call as an ASGI scope of vLLM's application."""
    headers = [(b"content-type", b"application/json"), (b"x-request-id", request.request_id.encode())]
    if request.traceparent:
        # vLLM takes the parent of its spans from headers only, never from the active span.
        headers.append((b"traceparent", request.traceparent.encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": request.url,
        "raw_path": request.url.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("worker", 0),
        "server": ("worker", 0),
        "app": app,
    }


def engine_ids(request_id: str) -> list[str]:
    """All names under which vLLM may know the request, by endpoint."""
    return [f"chatcmpl-{request_id}", f"cmpl-{request_id}-0", f"embd-{request_id}-0", f"embd-{request_id}", request_id]


def engine_times(metrics: Any) -> EngineTimes | None:
    """What vLLM measured of one generation; None unless it tells of all three parts."""
    parts = [getattr(metrics, name, None) for name in ("queue_time_ms", "time_to_first_token_ms", "generation_time_ms")]
    if any(part is None for part in parts):
        return None
    return EngineTimes(*(max(0, round(part)) for part in parts if part is not None))
