"""Routes of `/batches`: create, retrieve, list, cancel."""

import contextlib
import secrets
import time
from typing import Any

from fastapi import APIRouter, Request
from opentelemetry import trace

from services.ingest.api.batch_request import parse_batch_request
from services.ingest.api.body import read_body
from services.ingest.api.errors import ApiError
from services.ingest.api.paging import page, parse_limit
from services.ingest.log_writer import LogWriter
from services.ingest.lookup import current_batch, current_file
from services.ingest.read_model import ReadModel
from services.ingest.settings import IngestBlock
from services.ingest.view_feed import ViewFeed
from shared import identifiers
from shared.batch_state import BatchView, batch_object, may_cancel
from shared.errors import ObjectExists
from shared.messages import BatchCancelRequested, BatchCreated, encode
from shared.object_store import ObjectStore, cancel_key, manifest_key
from shared.telemetry import Telemetry, traceparent_of

LIST_DEFAULT, LIST_MAX = 20, 100
TENANT = "default"


class BatchesApi:
    """Batches as a resource."""

    def __init__(
        self,
        *,
        settings: IngestBlock,
        view: ReadModel,
        store: ObjectStore,
        feed: ViewFeed,
        log_writer: LogWriter,
        telemetry: Telemetry,
    ) -> None:
        self._feed = feed
        self._settings = settings
        self._view = view
        self._store = store
        self._log_writer = log_writer
        self._telemetry = telemetry

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter()
        router.add_api_route("/batches", self.create, methods=["POST"])
        router.add_api_route("/batches", self.list, methods=["GET"])
        router.add_api_route("/batches/{batch_id}", self.retrieve, methods=["GET"])
        router.add_api_route("/batches/{batch_id}/cancel", self.cancel, methods=["POST"])
        return router

    async def create(self, request: Request) -> dict[str, Any]:
        """Accept a batch: 200 only when the manifest object and the `created` facet are durable."""
        wanted = parse_batch_request(await read_body(request))
        file = await current_file(self._view, self._feed, self._store, wanted.input_file_id)
        if file is None:
            raise ApiError(400, f"Cannot find file {wanted.input_file_id}.", param="file_id", code="invalid_request")
        if file.purpose != "batch":
            raise ApiError(400, f"Input file must have purpose 'batch', got '{file.purpose}'.", param="input_file_id")
        now_s = int(time.time())
        batch_id = identifiers.batch_id(now_s, secrets.token_bytes(12))
        with self._telemetry.tracer.start_as_current_span("create batch", kind=trace.SpanKind.INTERNAL) as span:
            span.set_attribute("headrace.batch.id", batch_id)
            created = BatchCreated(
                id=batch_id,
                endpoint=wanted.endpoint,
                input_file_id=wanted.input_file_id,
                completion_window=wanted.completion_window,
                created_at=now_s,
                expires_at=now_s + self._settings.completion_window_s,
                metadata=wanted.metadata,
                tenant=TENANT,
                output_expires_after_s=wanted.output_expires_after_s,
                traceparent=traceparent_of(span),
                input_file=file,
            )
            await self._store.create(manifest_key(batch_id), encode(created))
            await self._log_writer.write_facet(batch_id, "created", created)
        return batch_object(BatchView(created=created))

    async def retrieve(self, batch_id: str) -> dict[str, Any]:
        """A batch as it is now."""
        return batch_object(await self._find(batch_id))

    async def list(self, request: Request) -> dict[str, Any]:
        """Batches, newest first."""
        limit = parse_limit(request.query_params.get("limit"), default=LIST_DEFAULT, maximum=LIST_MAX)
        await self._feed.catch_up()
        after = request.query_params.get("after")
        if after is not None and self._view.batch(after) is None:
            raise ApiError(404, f"No batch found with id '{after}'.", param="after")
        views = self._view.list_batches(tenant=TENANT, after=after, limit=limit + 1)
        return page([batch_object(view) for view in views], limit)

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Wish for an end; the dispatcher turns the wish into the record that decides."""
        view = await self._find(batch_id)
        if not may_cancel(view.status):
            raise ApiError(409, f"Cannot cancel a batch with status '{view.status}'.")
        if view.cancel is None and not view.is_terminal:
            wish = BatchCancelRequested(cancelling_at=int(time.time()))
            with contextlib.suppress(ObjectExists):  # an earlier call did not get as far as the log
                await self._store.create(cancel_key(batch_id), encode(wish))
            await self._log_writer.write_facet(batch_id, "cancel", wish)
        return batch_object(await self._find(batch_id))

    async def _find(self, batch_id: str) -> BatchView:
        view = await current_batch(self._view, self._feed, self._store, batch_id)
        if view is None:
            raise ApiError(404, f"No batch found with id '{batch_id}'.")
        return view
