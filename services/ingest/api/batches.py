"""Routes of `/batches`: create, retrieve, list, cancel, retry."""

import contextlib
import time
from typing import Any

import structlog
from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from services.ingest.api.batch_request import (
    BatchRequest,
    RequestRules,
    check_idempotency_key,
    parse_batch_request,
)
from services.ingest.api.body import read_body
from services.ingest.api.errors import ApiError, not_found_batch
from services.ingest.api.gate import Gate, tenant_of
from services.ingest.api.paging import page, parse_limit
from services.ingest.batch_intake import BatchIntake, BatchOrder, KeyConflict
from services.ingest.batch_retry import BatchRetry, NothingToRetry
from services.ingest.batch_shape import BatchShape
from services.ingest.log_writer import LogWriter
from services.ingest.lookup import Lookup
from services.ingest.quota import Quota
from services.ingest.read_model import ReadModel
from services.ingest.settings import IngestBlock
from shared.batch_state import BatchView, may_cancel
from shared.errors import ObjectExists
from shared.guesses import IDEMPOTENCY_CONFLICT_CODE, WRONG_PURPOSE_MESSAGE
from shared.logs import of_batch
from shared.messages import BatchCancelRequested, BatchCreated, StoredFile, encode
from shared.object_store import ObjectStore, cancel_key
from shared.settings import ContractSettings

log = structlog.get_logger(__name__)

LIST_DEFAULT, LIST_MAX = 20, 100
WARNING_HEADER = "x-headrace-warning"


class BatchesApi:
    """Batches as a resource."""

    def __init__(
        self,
        *,
        settings: IngestBlock,
        contract: ContractSettings,
        view: ReadModel,
        lookup: Lookup,
        store: ObjectStore,
        log_writer: LogWriter,
        intake: BatchIntake,
        retry: BatchRetry,
        shape: BatchShape,
        quota: Quota,
        gate: Gate,
    ) -> None:
        self._settings = settings
        self._contract = contract
        self._view = view
        self._lookup = lookup
        self._store = store
        self._log_writer = log_writer
        self._intake = intake
        self._retry = retry
        self._shape = shape
        self._quota = quota
        self._gate = gate

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(dependencies=[Depends(self._gate)], tags=["batches"])
        router.add_api_route("/batches", self.create, methods=["POST"])
        router.add_api_route("/batches", self.list, methods=["GET"])
        router.add_api_route("/batches/{batch_id}", self.retrieve, methods=["GET"])
        router.add_api_route("/batches/{batch_id}/cancel", self.cancel, methods=["POST"])
        router.add_api_route("/batches/{batch_id}/retry", self.retry, methods=["POST"])
        return router

    async def create(self, request: Request) -> dict[str, Any]:
        """Accept a batch: 200 only when the manifest object and the `created` facet are durable."""
        wanted = parse_batch_request(await read_body(request), self._rules())
        key = check_idempotency_key(request.headers.get("idempotency-key"), "Idempotency-Key") or wanted.idempotency_key
        order = _order(tenant_of(request), wanted)
        if key is None and _is_repeated(request) and self._settings.create_retry_window_s:
            earlier = await self._intake.earlier(order, self._settings.create_retry_window_s)
            if earlier is not None:
                return self._object(await self._find(order.tenant, earlier.id))
        if await self._is_known(order.tenant, key):  # its file may be gone by now, and its room is taken
            file = await self._lookup.file(order.tenant, order.input_file_id)
        else:
            self._quota.check_open_batches(order.tenant)
            file = await self._input_file(order)
        return await self._accept(order, file, key)

    async def retrieve(self, request: Request, response: Response, batch_id: str) -> dict[str, Any]:
        """A batch as it is now; a header says when nobody can work on it."""
        view = await self._find(tenant_of(request), batch_id)
        if warning := self._shape.warning(view, int(time.time())):
            response.headers[WARNING_HEADER] = warning.encode("ascii", "replace").decode()
        return self._object(view)

    async def list(self, request: Request) -> JSONResponse:
        """Batches, newest first."""
        tenant = tenant_of(request)
        limit = parse_limit(request.query_params.get("limit"), default=LIST_DEFAULT, maximum=LIST_MAX)
        after = request.query_params.get("after") or None
        if after is not None and await self._lookup.batch(tenant, after) is None:
            raise not_found_batch(after, param="after")
        views = await self._lookup.batches(tenant, after=after, limit=limit + 1)
        return JSONResponse(page([self._object(view) for view in views], limit))

    async def cancel(self, request: Request, batch_id: str) -> dict[str, Any]:
        """Wish for an end; the dispatcher turns the wish into the record that decides."""
        tenant = tenant_of(request)
        view = await self._find(tenant, batch_id)
        if not may_cancel(view.status):
            raise ApiError(409, f"Cannot cancel a batch with status '{view.status}'.")
        if view.cancel is None and not view.is_terminal:
            wish = BatchCancelRequested(cancelling_at=int(time.time()))
            with contextlib.suppress(ObjectExists):  # an earlier call did not get as far as the log
                await self._store.create(cancel_key(batch_id), encode(wish))
                log.info("batch cancelled by its user", **of_batch(view.created), tenant=tenant)
            await self._log_writer.write_facet(batch_id, "cancel", wish)
        return self._object(await self._find(tenant, batch_id))

    async def retry(self, request: Request, batch_id: str) -> dict[str, Any]:
        """A new batch of the lines that failed, expired or were cancelled."""
        tenant = tenant_of(request)
        view = await self._find(tenant, batch_id)
        if not view.is_terminal:
            raise ApiError(409, f"Cannot retry a batch with status '{view.status}': it has not ended.")
        key = check_idempotency_key(request.headers.get("idempotency-key"), "Idempotency-Key")
        old = view.created
        if await self._is_known(tenant, key):  # what it was made of may be gone by now
            file_id = self._retry.file_id(old.id, key)
            file = await self._lookup.file(tenant, file_id)
        else:
            self._quota.check_open_batches(tenant)
            try:
                file = await self._retry.input_file(view, key)
            except NothingToRetry as reason:
                raise ApiError(400, str(reason), param="batch_id") from None
            file_id = file.id
        order = BatchOrder(
            tenant=tenant,
            endpoint=old.endpoint,
            input_file_id=file_id,
            completion_window=old.completion_window,
            window_s=old.expires_at - old.created_at,
            metadata=old.metadata,
            output_expires_after_s=old.output_expires_after_s,
            priority=old.priority,
            retry_of=old.id,
        )
        return await self._accept(order, file, key)

    async def _is_known(self, tenant: str, key: str | None) -> bool:
        """Whether the call is repeated: then it makes no batch, and nothing is in its way."""
        return key is not None and await self._intake.is_known(tenant, key)

    async def _accept(self, order: BatchOrder, file: StoredFile | None, key: str | None) -> dict[str, Any]:
        try:
            created = await self._intake.accept(order, file, key)
        except KeyConflict as conflict:
            raise ApiError(
                409, f"Conflict: {conflict}", param="idempotency_key", code=IDEMPOTENCY_CONFLICT_CODE
            ) from None
        return self._answer(created)

    def _answer(self, created: BatchCreated) -> dict[str, Any]:
        return self._object(self._view.batch(created.id) or BatchView(created=created))

    async def _input_file(self, order: BatchOrder) -> StoredFile | None:
        file = await self._lookup.file(order.tenant, order.input_file_id)
        if file is None and self._contract.unknown_input_file == "400":
            text = f"Cannot find file {order.input_file_id}, or organization {order.tenant} does not have access to it."
            raise ApiError(400, text, param="file_id", code="invalid_request")
        if file is not None and file.purpose != "batch":
            raise ApiError(400, WRONG_PURPOSE_MESSAGE.format(purpose=file.purpose), param="input_file_id")
        if file is not None and file.bytes > self._settings.batch_file_bytes_max:
            raise ApiError(400, "File is too large.", param="input_file_id")
        return file

    def _rules(self) -> RequestRules:
        offered = self._view.endpoints_alive(int(time.time() * 1000), self._settings.worker_silence_s)
        return RequestRules(
            window_s=self._settings.completion_window_s,
            window_s_max=self._settings.completion_window_s_max,
            free_windows=self._contract.windows == "free",
            more_endpoints=frozenset(offered),
        )

    def _object(self, view: BatchView) -> dict[str, Any]:
        return self._shape.batch_object(view, int(time.time()))

    async def _find(self, tenant: str, batch_id: str) -> BatchView:
        view = await self._lookup.batch(tenant, batch_id)
        if view is None:
            raise not_found_batch(batch_id)
        return view


def _order(tenant: str, wanted: BatchRequest) -> BatchOrder:
    return BatchOrder(
        tenant=tenant,
        endpoint=wanted.endpoint,
        input_file_id=wanted.input_file_id,
        completion_window=wanted.completion_window,
        window_s=wanted.window_s,
        metadata=wanted.metadata,
        output_expires_after_s=wanted.output_expires_after_s,
        priority=wanted.priority,
    )


def _is_repeated(request: Request) -> bool:
    count = request.headers.get("x-stainless-retry-count", "0")
    return count.isdecimal() and count.strip("0") != ""
