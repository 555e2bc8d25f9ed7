"""Which lines of a batch are worth another try? SHELL: those of its error file, copied from its input file."""

import secrets
import tempfile
from typing import BinaryIO

import msgspec

from services.ingest.file_keeper import BATCH_PURPOSE, FileKeeper
from shared import identifiers
from shared.batch_state import BatchView
from shared.claim_check import REQUEST_BYTES_MAX, RESULT_BYTES_MAX
from shared.errors import HeadraceError, ObjectExists, ObjectNotFound
from shared.jsonl import LineReader
from shared.messages import StoredFile
from shared.object_store import ObjectStore, file_key

# Held in memory up to here, then in a temporary file.
SPOOL_BYTES = 1024 * 1024


class NothingToRetry(HeadraceError):
    """The batch has no failed lines, or their input is gone."""


class _CustomId(msgspec.Struct):
    custom_id: str


_decoder = msgspec.json.Decoder(_CustomId)


class BatchRetry:
    """Makes input files of what did not succeed."""

    def __init__(self, store: ObjectStore, keeper: FileKeeper) -> None:
        self._store = store
        self._keeper = keeper

    @staticmethod
    def file_id(batch_id: str, key: str | None) -> str:
        """The id of the input file of a retry; the same `key` names the same file."""
        return identifiers.file_id(f"{batch_id}/retry/{key}".encode() if key else secrets.token_bytes(16))

    async def input_file(self, view: BatchView, key: str | None) -> StoredFile:
        """A new file with the lines that failed, expired or were cancelled, byte for byte and in their order.

        The same `key` names the same file. Raises NothingToRetry, UnavailableError.
        """
        batch_id = view.created.id
        if view.closed is None:
            raise NothingToRetry(f"The batch '{batch_id}' was refused as a whole: correct its input file.")
        if view.closed.error_file_id is None:
            raise NothingToRetry(f"The batch '{batch_id}' has no failed, expired or cancelled lines.")
        file_id = self.file_id(batch_id, key)
        try:
            wanted = await self._failed_ids(view.closed.error_file_id)
            with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as content:
                await self._copy(view.created.input_file_id, wanted, content)
                num_bytes = content.tell()
                try:
                    await self._store.create(file_key(file_id), content)  # type: ignore[arg-type]
                except ObjectExists:
                    num_bytes = await self._store.size(file_key(file_id)) or 0
        except ObjectNotFound:
            raise NothingToRetry(f"The files of the batch '{batch_id}' were deleted.") from None
        file = self._keeper.describe(
            file_id,
            tenant=view.created.tenant,
            purpose=BATCH_PURPOSE,
            filename=f"{batch_id}_retry.jsonl",
            num_bytes=num_bytes,
            expires_after_s=None,
        )
        await self._keeper.add(file)
        return file

    async def _failed_ids(self, error_file_id: str) -> set[str]:
        reader, ids = LineReader(RESULT_BYTES_MAX), set[str]()
        async for chunk in self._store.stream(file_key(error_file_id)):
            ids.update(_decoder.decode(line.value or b"").custom_id for line in reader.feed(chunk))
        ids.update(_decoder.decode(line.value or b"").custom_id for line in reader.finish())
        return ids

    async def _copy(
        self, input_file_id: str, wanted: set[str], out: BinaryIO | tempfile.SpooledTemporaryFile[bytes]
    ) -> None:
        reader = LineReader(REQUEST_BYTES_MAX)
        async for chunk in self._store.stream(file_key(input_file_id)):
            for line in reader.feed(chunk):
                _copy_line(line.value or b"", wanted, out)
        for line in reader.finish():
            _copy_line(line.value or b"", wanted, out)


def _copy_line(value: bytes, wanted: set[str], out: BinaryIO | tempfile.SpooledTemporaryFile[bytes]) -> None:
    if _decoder.decode(value).custom_id in wanted:
        out.write(value + b"\n")
