"""How does an Upload go from parts to a file? SHELL: kept in the object store alone.

`upload.json` says what was announced, each part is an object, and `end.json` is created once: it decides between
completed and cancelled, whoever asks first. Everything after that decision may be repeated, so a client that did not
hear the answer calls again. The file's id is derived from the Upload's.
"""

import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from services.ingest.file_keeper import FileKeeper
from shared import identifiers
from shared.errors import HeadraceError, ObjectExists, ObjectNotFound
from shared.messages import Message, StoredFile, encode
from shared.object_store import ObjectStore, file_key, part_key, read_json, upload_key

LIFETIME_S: Final = 3600
# An Upload that ended or expired is forgotten after as long again.
KEPT_S: Final = 2 * LIFETIME_S
PARTS_MAX: Final = 10_000
ANNOUNCED, ENDED = "upload.json", "end.json"


class Announced(Message, frozen=True, kw_only=True):
    """What was said when the Upload was started."""

    id: str
    tenant: str
    bytes: int
    filename: str
    mime_type: str
    purpose: str
    created_at: int
    expires_after_s: int | None = None

    @property
    def expires_at(self) -> int:
        """The Unix second from which nothing can be added."""
        return self.created_at + LIFETIME_S


class Ended(Message, frozen=True, kw_only=True):
    """How it ended: `completed` with a file, or `cancelled`."""

    status: str
    part_ids: tuple[str, ...] = ()
    file: StoredFile | None = None


class Upload(msgspec.Struct, frozen=True):
    """An Upload as it is now."""

    announced: Announced
    ended: Ended | None

    def status(self, now_s: float) -> str:
        """`pending`, `completed`, `cancelled` or `expired`."""
        if self.ended is not None:
            return self.ended.status
        return "expired" if now_s >= self.announced.expires_at else "pending"


class UploadRefused(HeadraceError):
    """The call does not fit the Upload; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Uploads:
    """All Uploads."""

    def __init__(self, store: ObjectStore, keeper: FileKeeper) -> None:
        self._store = store
        self._keeper = keeper

    async def start(self, announced: Announced) -> Upload:
        """Note what is going to be sent."""
        await self._store.create(upload_key(announced.id, ANNOUNCED), encode(announced))
        return Upload(announced, None)

    async def find(self, tenant: str, upload_id: str) -> Upload | None:
        """An Upload of the tenant, or None."""
        announced = await read_json(self._store, upload_key(upload_id, ANNOUNCED), Announced)
        if announced is None or announced.tenant != tenant:
            return None
        return Upload(announced, await read_json(self._store, upload_key(upload_id, ENDED), Ended))

    async def complete(self, upload: Upload, part_ids: Sequence[str], md5: str | None) -> Upload:
        """Join the parts in this order; raises UploadRefused."""
        ended = upload.ended
        if ended is None:
            _demand_pending(upload)
            ended = await self._complete(upload, part_ids, md5)
        if ended.status != "completed" or ended.part_ids != tuple(part_ids) or ended.file is None:
            raise UploadRefused(f"The Upload is already {ended.status}.")
        parts = [part_key(upload.announced.id, part_id) for part_id in part_ids]
        with contextlib.suppress(ObjectExists, ObjectNotFound):  # an earlier call joined them and removed the parts
            await self._store.concatenate(file_key(ended.file.id), parts)
        if await self._store.size(file_key(ended.file.id)) is None:
            raise UploadRefused("The file of this Upload was deleted.")
        await self._keeper.add(ended.file)
        await self._remove_parts(upload.announced.id)
        return Upload(upload.announced, ended)

    async def cancel(self, upload: Upload) -> Upload:
        """Give it up; raises UploadRefused."""
        if upload.ended is None:
            _demand_pending(upload)
        ended = upload.ended or await self._end(upload, Ended(status="cancelled"))
        if ended.status != "cancelled":
            raise UploadRefused(f"The Upload is already {ended.status}.")
        await self._remove_parts(upload.announced.id)
        return Upload(upload.announced, ended)

    async def sweep(self, now_s: float) -> int:
        """Remove what is left of Uploads that are over; how many these were."""
        ids = {key.split("/")[1] for key in await self._store.keys("uploads/")}
        num_removed = 0
        for upload_id in ids:
            announced = await read_json(self._store, upload_key(upload_id, ANNOUNCED), Announced)
            if announced is None or now_s < announced.created_at + KEPT_S:
                continue
            await self._remove_parts(upload_id)
            for name in (ENDED, ANNOUNCED):
                await self._store.delete(upload_key(upload_id, name))
            num_removed += 1
        return num_removed

    async def _complete(self, upload: Upload, part_ids: Sequence[str], md5: str | None) -> Ended:
        try:
            file = await self._checked_file(upload.announced, part_ids, md5)
        except (UploadRefused, ObjectNotFound):  # another call may have ended it meanwhile, and removed the parts
            ended = await read_json(self._store, upload_key(upload.announced.id, ENDED), Ended)
            if ended is None:
                raise
            return ended
        return await self._end(upload, Ended(status="completed", part_ids=tuple(part_ids), file=file))

    async def _end(self, upload: Upload, wanted: Ended) -> Ended:
        """Decide how it ends; the first decision wins."""
        key = upload_key(upload.announced.id, ENDED)
        try:
            await self._store.create(key, encode(wanted))
        except ObjectExists:
            return await read_json(self._store, key, Ended) or wanted
        return wanted

    async def _checked_file(self, announced: Announced, part_ids: Sequence[str], md5: str | None) -> StoredFile:
        num_bytes = 0
        for part_id in part_ids:
            size = await self._store.size(part_key(announced.id, part_id))
            if size is None:
                raise UploadRefused(f"No part found with id '{part_id}' in this Upload.", "part_ids")
            num_bytes += size
        if num_bytes != announced.bytes:
            text = f"The parts have {num_bytes} bytes, the Upload was announced with {announced.bytes}."
            raise UploadRefused(text, "part_ids")
        if md5 is not None and md5.lower() != (found := await self._md5(announced.id, part_ids)):
            raise UploadRefused(f"The MD5 of the parts is {found}, not {md5}.", "md5")
        return self._keeper.describe(
            identifiers.file_id(announced.id.encode()),
            tenant=announced.tenant,
            purpose=announced.purpose,
            filename=announced.filename,
            num_bytes=num_bytes,
            expires_after_s=announced.expires_after_s,
        )

    async def _md5(self, upload_id: str, part_ids: Sequence[str]) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        async for chunk in self._parts(upload_id, part_ids):
            digest.update(chunk)
        return digest.hexdigest()

    async def _parts(self, upload_id: str, part_ids: Sequence[str]) -> AsyncIterator[bytes]:
        for part_id in part_ids:
            async for chunk in self._store.stream(part_key(upload_id, part_id)):
                yield chunk

    async def _remove_parts(self, upload_id: str) -> None:
        for key in await self._store.keys(part_key(upload_id, "")):
            await self._store.delete(key)


def _demand_pending(upload: Upload) -> None:
    status = upload.status(time.time())
    if status != "pending":
        raise UploadRefused(f"The Upload is {status}.")
