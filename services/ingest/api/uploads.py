"""Routes of `/uploads`: start, add a part, complete, cancel (contract 1.2)."""

import re
import secrets
import time
from typing import Any

from fastapi import APIRouter, Depends, Request

from services.ingest.api.body import read_body
from services.ingest.api.errors import ApiError, missing_parameter, wrong_type
from services.ingest.api.file_request import check_filename, check_purpose, parse_expires_after
from services.ingest.api.gate import Gate, tenant_of
from services.ingest.api.json_body import checked_integer, optional_string, parse_json_object, required_string
from services.ingest.api.shapes import part_object, upload_object
from services.ingest.api.upload_form import read_part
from services.ingest.quota import Quota
from services.ingest.settings import IngestBlock
from services.ingest.uploads import PARTS_MAX, Announced, Upload, UploadRefused, Uploads
from shared import identifiers
from shared.guesses import REPEATED_PART_MESSAGE
from shared.object_store import ObjectStore, part_key

_UPLOAD_ID = re.compile(r"upload_[0-9a-f]{32}")
_PART_ID = re.compile(r"part_[0-9a-f]{32}")


class UploadsApi:
    """Uploads as a resource."""

    def __init__(
        self, *, settings: IngestBlock, uploads: Uploads, store: ObjectStore, quota: Quota, gate: Gate
    ) -> None:
        self._settings = settings
        self._uploads = uploads
        self._store = store
        self._quota = quota
        self._gate = gate

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(dependencies=[Depends(self._gate)], tags=["uploads"])
        router.add_api_route("/uploads", self.start, methods=["POST"])
        router.add_api_route("/uploads/{upload_id}/parts", self.add_part, methods=["POST"])
        router.add_api_route("/uploads/{upload_id}/complete", self.complete, methods=["POST"])
        router.add_api_route("/uploads/{upload_id}/cancel", self.cancel, methods=["POST"])
        return router

    async def start(self, request: Request) -> dict[str, Any]:
        """Announce a file that comes in parts."""
        value = parse_json_object(await read_body(request))
        for name in ("bytes", "filename", "mime_type", "purpose"):
            if value.get(name) is None:
                raise missing_parameter(name)
        purpose = required_string(value, "purpose")
        check_purpose(purpose)
        tenant, now_s = tenant_of(request), int(time.time())
        announced = Announced(
            id=identifiers.upload_id(now_s, secrets.token_bytes(12)),
            tenant=tenant,
            bytes=checked_integer("bytes", value["bytes"], 0, self._settings.upload_bytes_max),
            filename=check_filename(required_string(value, "filename"), purpose, "filename"),
            mime_type=required_string(value, "mime_type"),
            purpose=purpose,
            created_at=now_s,
            expires_after_s=parse_expires_after("expires_after", value.get("expires_after")),
        )
        self._quota.check_stored_bytes(tenant, announced.bytes)
        return upload_object(await self._uploads.start(announced), time.time())

    async def add_part(self, request: Request, upload_id: str) -> dict[str, Any]:
        """Take a part; parts may come in parallel and in any order."""
        self._demand_pending(await self._find(request, upload_id))
        async with read_part(request, self._settings.part_bytes_max) as part:
            now_s = int(time.time())
            part_id = identifiers.part_id(now_s, secrets.token_bytes(12))
            await self._store.create(part_key(upload_id, part_id), part.content)
        # It may have ended while the part was on its way; whoever ended it has removed the parts that it saw.
        try:
            self._demand_pending(await self._find(request, upload_id))
        except ApiError:
            await self._store.delete(part_key(upload_id, part_id))
            raise
        return part_object(part_id, upload_id, now_s)

    async def complete(self, request: Request, upload_id: str) -> dict[str, Any]:
        """Make a file of the parts, in the order of `part_ids`."""
        upload = await self._find(request, upload_id)
        value = parse_json_object(await read_body(request))
        part_ids = _part_ids(value.get("part_ids"))
        try:
            done = await self._uploads.complete(upload, part_ids, optional_string(value, "md5"))
        except UploadRefused as refused:
            raise ApiError(400, str(refused), param=refused.param) from None
        return upload_object(done, time.time())

    async def cancel(self, request: Request, upload_id: str) -> dict[str, Any]:
        """Give the Upload up; its parts are removed."""
        upload = await self._find(request, upload_id)
        try:
            return upload_object(await self._uploads.cancel(upload), time.time())
        except UploadRefused as refused:
            raise ApiError(400, str(refused)) from None

    async def _find(self, request: Request, upload_id: str) -> Upload:
        is_id = _UPLOAD_ID.fullmatch(upload_id) is not None
        upload = await self._uploads.find(tenant_of(request), upload_id) if is_id else None
        if upload is None:
            raise ApiError(404, f"No such Upload object: {upload_id}", param="id")
        return upload

    @staticmethod
    def _demand_pending(upload: Upload) -> None:
        status = upload.status(time.time())
        if status != "pending":
            raise ApiError(400, f"The Upload is {status}, nothing can be added to it.")


def _part_ids(value: object) -> list[str]:
    if value is None:
        raise missing_parameter("part_ids")
    if not isinstance(value, list):
        raise wrong_type("part_ids", "an array", value)
    if len(value) > PARTS_MAX:
        raise ApiError(400, f"An Upload may have at most {PARTS_MAX} parts.", param="part_ids")
    for number, part_id in enumerate(value):
        if not isinstance(part_id, str):
            raise wrong_type(f"part_ids[{number}]", "a string", part_id)
        if not _PART_ID.fullmatch(part_id):
            raise ApiError(400, f"No part found with id '{part_id[:80]}' in this Upload.", param="part_ids")
    if len(set(value)) != len(value):
        raise ApiError(400, REPEATED_PART_MESSAGE, param="part_ids")
    return value
