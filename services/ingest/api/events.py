"""Routes of live progress: snapshots of a batch, or of the fleet, as server-sent events.

Each event is a whole snapshot, so a client that lost some has lost nothing: its `Last-Event-ID` only keeps it from
getting the one again that it has.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import StreamingResponse

from services.ingest.api.errors import not_found_batch
from services.ingest.api.gate import Gate, tenant_of
from services.ingest.api.workers import WorkersApi
from services.ingest.batch_shape import BatchShape
from services.ingest.lookup import Lookup
from services.ingest.read_model import ReadModel

MEDIA_TYPE = "text/event-stream"
# At most four snapshots a second.
INTERVAL_S = 0.25
# A comment now and then, so that proxies do not take a quiet stream for a dead one.
KEEP_ALIVE_S = 15.0
# A stream ends after so long; clients come back by themselves.
STREAM_MAX_S = 3600.0
END = b"event: end\ndata: {}\n\n"
# The snapshot, and whether it is the last one.
Look = Callable[[], Awaitable[tuple[dict[str, Any], bool]]]


class EventsApi:
    """What changes, as it changes."""

    def __init__(
        self, *, view: ReadModel, lookup: Lookup, shape: BatchShape, workers: WorkersApi, batches: Gate, models: Gate
    ) -> None:
        self._view = view
        self._lookup = lookup
        self._shape = shape
        self._workers = workers
        self._batches, self._models = batches, models

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(tags=["events"])
        router.add_api_route(
            "/batches/{batch_id}/events", self.batch, methods=["GET"], dependencies=[Depends(self._batches)]
        )
        router.add_api_route("/workers/events", self.fleet, methods=["GET"], dependencies=[Depends(self._models)])
        return router

    async def batch(self, request: Request, batch_id: str) -> StreamingResponse:
        """A batch object whenever it changes, until it has ended."""
        found = await self._lookup.batch(tenant_of(request), batch_id)
        if found is None:
            raise not_found_batch(batch_id)

        async def look() -> tuple[dict[str, Any], bool]:
            view = self._view.batch(batch_id) or found
            return self._shape.batch_object(view, int(time.time())), view.is_terminal

        return _answer("batch", look, request)

    async def fleet(self, request: Request) -> StreamingResponse:
        """The list of workers whenever one of them says something."""

        async def look() -> tuple[dict[str, Any], bool]:
            return await self._workers.list(), False

        return _answer("workers", look, request)


def _answer(name: str, look: Look, request: Request) -> StreamingResponse:
    events = snapshots(name, look, request.headers.get("last-event-id"), request.is_disconnected)
    return StreamingResponse(events, media_type=MEDIA_TYPE, headers={"cache-control": "no-store"})


async def snapshots(
    name: str, look: Look, last_id: str | None, is_gone: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    """Events until the snapshot is the last one, the client is gone, or an hour has passed."""
    began = sent_at = time.monotonic()
    is_last = False
    while not is_last and time.monotonic() - began < STREAM_MAX_S and not await is_gone():
        snapshot, is_last = await look()
        data = json.dumps(snapshot, ensure_ascii=False)
        event_id = hashlib.sha256(data.encode()).hexdigest()[:16]
        if event_id != last_id:
            yield f"id: {event_id}\nevent: {name}\ndata: {data}\n\n".encode()
            last_id, sent_at = event_id, time.monotonic()
        elif time.monotonic() - sent_at >= KEEP_ALIVE_S:
            yield b": still here\n\n"
            sent_at = time.monotonic()
        if not is_last:
            await asyncio.sleep(INTERVAL_S)
    if is_last:
        yield END
