"""Routes of `/files`: create, list, retrieve, delete, content."""

import secrets
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from services.ingest.api.body import read_body
from services.ingest.api.errors import not_found_file
from services.ingest.api.file_content import file_response
from services.ingest.api.gate import Gate, tenant_of
from services.ingest.api.json_body import optional_string, parse_json_object
from services.ingest.api.paging import page, parse_descending, parse_limit
from services.ingest.api.shapes import file_object, validation_object
from services.ingest.api.upload_form import read_upload
from services.ingest.file_keeper import FileKeeper
from services.ingest.input_checks import InputChecks
from services.ingest.line_source import first_url
from services.ingest.lookup import Lookup
from services.ingest.quota import Quota
from services.ingest.settings import IngestBlock
from services.ingest.validation import check_lines
from shared import identifiers
from shared.errors import ObjectNotFound
from shared.messages import StoredFile
from shared.object_store import ObjectStore, file_key

LIST_DEFAULT, LIST_MAX = 10_000, 10_000


class FilesApi:
    """Files as a resource."""

    def __init__(
        self,
        *,
        settings: IngestBlock,
        lookup: Lookup,
        store: ObjectStore,
        keeper: FileKeeper,
        quota: Quota,
        checks: InputChecks,
        gate: Gate,
    ) -> None:
        self._settings = settings
        self._lookup = lookup
        self._store = store
        self._keeper = keeper
        self._quota = quota
        self._checks = checks
        self._gate = gate

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(dependencies=[Depends(self._gate)], tags=["files"])
        router.add_api_route("/files", self.create, methods=["POST"])
        router.add_api_route("/files", self.list, methods=["GET"])
        router.add_api_route("/files/{file_id}", self.retrieve, methods=["GET"])
        router.add_api_route("/files/{file_id}", self.delete, methods=["DELETE"])
        router.add_api_route("/files/{file_id}/content", self.content, methods=["GET"])
        router.add_api_route("/files/{file_id}/validate", self.validate, methods=["POST"])
        return router

    async def create(self, request: Request) -> dict[str, Any]:
        """Take an upload: 200 only when the bytes and the record are durable."""
        limits, tenant = self._settings, tenant_of(request)
        async with read_upload(request, limits.file_bytes_max, limits.batch_file_bytes_max) as upload:
            self._quota.check_stored_bytes(tenant, upload.num_bytes)
            file_id = identifiers.file_id(secrets.token_bytes(16))
            await self._store.create(file_key(file_id), upload.content)
            file = self._keeper.describe(
                file_id,
                tenant=tenant,
                purpose=upload.purpose,
                filename=upload.filename,
                num_bytes=upload.num_bytes,
                expires_after_s=upload.expires_after_s,
            )
            await self._keeper.add(file)
        return file_object(file)

    async def list(self, request: Request) -> JSONResponse:
        """Files, newest first unless `order=asc`."""
        query, tenant = request.query_params, tenant_of(request)
        limit = parse_limit(query.get("limit"), default=LIST_DEFAULT, maximum=LIST_MAX)
        descending = parse_descending(query.get("order"))
        after = query.get("after") or None
        if after is not None and await self._lookup.file(tenant, after) is None:
            raise not_found_file(after, param="after")
        files = await self._lookup.files(
            tenant, purpose=query.get("purpose"), after=after, limit=limit + 1, descending=descending
        )
        return JSONResponse(page([file_object(file) for file in files], limit))

    async def retrieve(self, request: Request, file_id: str) -> dict[str, Any]:
        """A file's object."""
        return file_object(await self._find(request, file_id))

    async def delete(self, request: Request, file_id: str) -> dict[str, Any]:
        """Forget a file. The bytes of an input stay while an open batch still reads them."""
        await self._keeper.delete(await self._find(request, file_id))
        return {"id": file_id, "object": "file", "deleted": True}

    async def content(self, request: Request, file_id: str) -> Response:
        """A file's bytes."""
        return await file_response(request, self._store, await self._find(request, file_id))

    async def validate(self, request: Request, file_id: str) -> dict[str, Any]:
        """A dry run: the errors that a batch of this file would get now. The endpoint is that of the first line,
        unless the body names one.
        """
        file = await self._find(request, file_id)
        body = await read_body(request)
        endpoint = optional_string(parse_json_object(body), "endpoint") if body.strip() else None
        try:
            endpoint = endpoint or await first_url(self._store, file_id)
            checked = self._checks.input_file(endpoint, file.tenant)
            await check_lines(self._store, file_id, checked)
        except ObjectNotFound:
            raise not_found_file(file_id) from None
        return validation_object(file_id, endpoint, checked)

    async def _find(self, request: Request, file_id: str) -> StoredFile:
        file = await self._lookup.file(tenant_of(request), file_id)
        if file is None:
            raise not_found_file(file_id)
        return file
