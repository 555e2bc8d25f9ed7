"""Routes of `/files`: create, list, retrieve, delete, content."""

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from services.ingest.api.errors import ApiError
from services.ingest.api.paging import page, parse_descending, parse_limit
from services.ingest.api.upload_form import read_upload
from services.ingest.log_writer import LogWriter
from services.ingest.lookup import current_file
from services.ingest.read_model import ReadModel
from services.ingest.settings import IngestBlock
from services.ingest.view_feed import ViewFeed
from shared import identifiers
from shared.errors import ObjectNotFound
from shared.messages import StoredFile, encode
from shared.object_store import ObjectStore, file_key, file_object_key

LIST_DEFAULT, LIST_MAX = 10_000, 10_000
TENANT = "default"


def file_object(file: StoredFile) -> dict[str, Any]:
    """OpenAI's File object in the real service's key order (contract 2.2)."""
    return {
        "object": "file",
        "id": file.id,
        "purpose": file.purpose,
        "filename": file.filename,
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "status": "processed",
        "status_details": None,
    }


class FilesApi:
    """Files as a resource."""

    def __init__(
        self,
        *,
        settings: IngestBlock,
        view: ReadModel,
        store: ObjectStore,
        feed: ViewFeed,
        log_writer: LogWriter,
    ) -> None:
        self._feed = feed
        self._settings = settings
        self._view = view
        self._store = store
        self._log_writer = log_writer

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter()
        router.add_api_route("/files", self.create, methods=["POST"])
        router.add_api_route("/files", self.list, methods=["GET"])
        router.add_api_route("/files/{file_id}", self.retrieve, methods=["GET"])
        router.add_api_route("/files/{file_id}", self.delete, methods=["DELETE"])
        router.add_api_route("/files/{file_id}/content", self.content, methods=["GET"])
        return router

    async def create(self, request: Request) -> dict[str, Any]:
        """Take an upload: 200 only when the bytes and the record are durable."""
        limits = self._settings
        async with read_upload(request, limits.file_bytes_max, limits.batch_file_bytes_max) as upload:
            now_s = int(time.time())
            file_id = identifiers.file_id(secrets.token_bytes(16))
            lasts_s = upload.expires_after_s
            if lasts_s is None and upload.purpose == "batch":
                lasts_s = limits.batch_file_expires_after_s
            await self._store.create(file_key(file_id), upload.content)
            file = StoredFile(
                id=file_id,
                purpose=upload.purpose,
                filename=upload.filename,
                bytes=upload.num_bytes,
                created_at=now_s,
                object_key=file_key(file_id),
                expires_at=now_s + lasts_s if lasts_s is not None else None,
                tenant=TENANT,
            )
            await self._store.create(file_object_key(file_id), encode(file))
            await self._log_writer.write_file(file)
        return file_object(file)

    async def list(self, request: Request) -> dict[str, Any]:
        """Files, newest first unless `order=asc`."""
        query = request.query_params
        limit = parse_limit(query.get("limit"), default=LIST_DEFAULT, maximum=LIST_MAX)
        descending = parse_descending(query.get("order"))
        await self._feed.catch_up()
        after = query.get("after")
        if after is not None and self._view.file(after) is None:
            raise ApiError(404, f"No such File object: {after}", param="after")
        files = self._view.list_files(
            tenant=TENANT, purpose=query.get("purpose"), after=after, limit=limit + 1, descending=descending
        )
        return page([file_object(file) for file in files], limit)

    async def retrieve(self, file_id: str) -> dict[str, Any]:
        """A file's object."""
        return file_object(await self._find(file_id))

    async def delete(self, file_id: str) -> dict[str, Any]:
        """Forget a file. The bytes of an input stay while an open batch still reads them."""
        file = await self._find(file_id)
        await self._store.delete(file_object_key(file_id))
        await self._log_writer.forget_file(file_id)
        if not any(view.created.input_file_id == file_id for view in self._view.open_batches()):
            await self._store.delete(file.object_key)
        return {"id": file_id, "object": "file", "deleted": True}

    async def content(self, file_id: str) -> StreamingResponse:
        """A file's bytes."""
        file = await self._find(file_id)
        chunks = self._store.stream(file.object_key)
        try:
            first = await anext(chunks, b"")
        except ObjectNotFound:
            raise ApiError(404, f"No such File object: {file_id}", param="id") from None
        headers = {"content-disposition": _disposition(file.filename), "content-length": str(file.bytes)}
        return StreamingResponse(_chain(first, chunks), media_type="application/octet-stream", headers=headers)

    async def _find(self, file_id: str) -> StoredFile:
        file = await current_file(self._view, self._feed, self._store, file_id)
        if file is None:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return file


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _disposition(filename: str) -> str:
    """`attachment` with the plain name when it is ASCII, with the encoded one beside it otherwise (RFC 6266)."""
    plain = filename.replace("\\", "_").replace('"', "_")
    plain = "".join(c if " " <= c <= "~" else "_" for c in plain)
    if plain == filename:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
