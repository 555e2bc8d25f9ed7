"""How does a file come to be, and how does it go? SHELL: bytes, object and record, in steps that may be repeated."""

import contextlib
import time

import msgspec

from services.ingest.log_writer import LogWriter
from services.ingest.read_model import ReadModel
from shared.errors import ObjectExists
from shared.messages import StoredFile, encode
from shared.metric_names import FILE_BYTES
from shared.object_store import ObjectStore, file_key, file_object_key
from shared.telemetry import Telemetry

BATCH_PURPOSE = "batch"


class FileKeeper:
    """Adds files whose bytes are in the store, and removes them."""

    def __init__(
        self,
        *,
        view: ReadModel,
        store: ObjectStore,
        log_writer: LogWriter,
        batch_file_expires_after_s: int,
        telemetry: Telemetry,
    ) -> None:
        self._view = view
        self._store = store
        self._log_writer = log_writer
        self._batch_expires_after_s = batch_file_expires_after_s
        self._num_bytes = telemetry.counter(FILE_BYTES)

    def describe(
        self, file_id: str, *, tenant: str, purpose: str, filename: str, num_bytes: int, expires_after_s: int | None
    ) -> StoredFile:
        """The record of a file that begins now; files for batches have an end, others only when it was asked for."""
        now_ns = time.time_ns()
        now_s = now_ns // 10**9
        if expires_after_s is None and purpose == BATCH_PURPOSE:
            expires_after_s = self._batch_expires_after_s
        return StoredFile(
            id=file_id,
            purpose=purpose,
            filename=filename,
            bytes=num_bytes,
            created_at=now_s,
            object_key=file_key(file_id),
            expires_at=now_s + expires_after_s if expires_after_s is not None else None,
            tenant=tenant,
            created_ns=now_ns,
        )

    async def add(self, file: StoredFile) -> None:
        """Make a file known whose bytes are durable; returns once every call finds it. Raises UnavailableError."""
        with contextlib.suppress(ObjectExists):  # an earlier try got as far as this
            await self._store.create(file_object_key(file.id), encode(file))
            self._num_bytes.add(file.bytes)
        await self._log_writer.write_file(file)

    async def delete(self, file: StoredFile) -> None:
        """Take a file away from its user now, and its bytes as soon as no open batch reads them."""
        await self._log_writer.write_file(msgspec.structs.replace(file, deleted=True))
        await self._store.delete(file_object_key(file.id))
        if not self._is_read(file):
            await self._remove(file)

    async def sweep(self, now_s: int) -> int:
        """Remove what was deleted or has expired and is read by nobody; how many files that were."""
        due = [file for file in self._view.files_over(now_s) if not self._is_read(file)]
        for file in due:
            await self._remove(file)
        return len(due)

    def _is_read(self, file: StoredFile) -> bool:
        return any(view.created.input_file_id == file.id for view in self._view.open_batches())

    async def _remove(self, file: StoredFile) -> None:
        """The record last: as long as it is there, somebody will try again."""
        await self._store.delete(file_object_key(file.id))
        await self._store.delete(file.object_key)
        await self._log_writer.forget_file(file.id)
