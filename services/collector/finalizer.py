"""How does a closed shard become files, and a batch terminal? SHELL: create-only steps, each of which may be repeated.

A batch of one shard: output and error file, then `final.json`. A batch of several: every shard leaves its files and a
record of its own; the collector of shard 0 waits for all of them, joins the files and writes `final.json`. Result files
have ids derived from the batch's, their content is a function of the log, and the first record of each kind wins.
"""

import asyncio
import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.collector.ledger import CANCELLED, COMPLETED, EXPIRED, Shard
from services.collector.result_files import KINDS, LineIndex, ResultFiles, put_together
from shared import identifiers
from shared.error_codes import add_codes
from shared.errors import ObjectExists
from shared.guesses import RESULT_FILENAME
from shared.logs import of_batch
from shared.messages import BatchClosed, BatchCreated, ShardClosed, StoredFile, Usage, encode
from shared.metric_names import BATCH_DURATION, BATCHES_CLOSED
from shared.object_store import ObjectStore, file_key, final_key, manifest_key, read_json, shard_key
from shared.span_attributes import BATCH_ID
from shared.telemetry import Telemetry
from shared.topics import num_shards
from shared.trace_context import context_from

log = structlog.get_logger(__name__)

OTHER_SHARDS_POLL_S = 0.5
SHARD_RECORD = "final.json"


@dataclass(frozen=True, slots=True)
class ClosedShard:
    """A closed shard whose last record is durable, with what finalising needs."""

    shard: Shard
    index: LineIndex
    closed_at: int


class Finalizer:
    """Turns closed shards into files, and complete batches into terminal records."""

    def __init__(
        self,
        store: ObjectStore,
        scratch_dir: Path | None,
        result_expires_after_s: int,
        telemetry: Telemetry,
        concurrency: int,
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._scratch_dir = scratch_dir
        self._expires_after_s = result_expires_after_s
        self._slots = asyncio.Semaphore(concurrency)
        self._num_closed, self._duration = telemetry.counter(BATCHES_CLOSED), telemetry.histogram(BATCH_DURATION)

    async def finalize(self, closed: ClosedShard) -> BatchClosed | None:
        """Make the shard's files durable and, for shard 0, the batch's terminal record; safe to repeat at any point.

        None for a batch that nobody created, and for the other shards of a batch: shard 0 tells of its end.
        """
        batch_id = closed.shard.batch_id
        manifest = await read_json(self._store, manifest_key(batch_id), BatchCreated)
        if manifest is None:
            return None
        if known := await read_json(self._store, final_key(batch_id), BatchClosed):
            return known if closed.shard.number == 0 else None
        with self._telemetry.tracer.start_as_current_span(
            "finalise batch", context_from(manifest.traceparent), attributes={BATCH_ID: batch_id}
        ):
            if num_shards(closed.shard.batch_total) == 1:
                return await self._end_small_batch(closed, manifest)
            await self._end_shard(closed, manifest)
            return await self._end_batch(closed, manifest) if closed.shard.number == 0 else None

    async def was_created(self, batch_id: str) -> bool:
        """Whether a manifest exists."""
        return await self._store.size(manifest_key(batch_id)) is not None

    async def closed_at(self, batch_id: str) -> int | None:
        """The Unix second of the terminal record, or None when there is none."""
        final = await read_json(self._store, final_key(batch_id), BatchClosed)
        return final.closed_at if final else None

    async def _end_small_batch(self, closed: ClosedShard, manifest: BatchCreated) -> BatchClosed:
        keys = {kind: file_key(identifiers.result_file_id(manifest.id, kind)) for kind in KINDS}
        record = await self._write_files(closed, manifest, keys)
        return await self._create_final(manifest, closed, [record])

    async def _end_shard(self, closed: ClosedShard, manifest: BatchCreated) -> None:
        shard = closed.shard
        key = shard_key(manifest.id, shard.number, SHARD_RECORD)
        if await self._store.size(key) is not None:
            return
        keys = {kind: shard_key(manifest.id, shard.number, kind) for kind in KINDS}
        record = await self._write_files(closed, manifest, keys)
        await self._create_once(key, encode(record))

    async def _end_batch(self, closed: ClosedShard, manifest: BatchCreated) -> BatchClosed:
        """Wait until every shard has its record, then join their files in line order."""
        records: list[ShardClosed] = []
        for number in range(num_shards(closed.shard.batch_total)):
            key = shard_key(manifest.id, number, SHARD_RECORD)
            while (record := await read_json(self._store, key, ShardClosed)) is None:
                await asyncio.sleep(OTHER_SHARDS_POLL_S)
            records.append(record)
        async with self._slots:
            for kind in KINDS:
                parts = [
                    shard_key(manifest.id, number, kind)
                    for number, record in enumerate(records)
                    if _num_lines(record, kind)
                ]
                if parts:
                    with contextlib.suppress(ObjectExists):
                        await self._store.concatenate(file_key(identifiers.result_file_id(manifest.id, kind)), parts)
            return await self._create_final(manifest, closed, records)

    async def _write_files(self, closed: ClosedShard, manifest: BatchCreated, keys: dict[str, str]) -> ShardClosed:
        """Create the shard's two files under `keys`; one without lines is not created."""
        shard = closed.shard
        async with self._slots:
            with tempfile.TemporaryDirectory(prefix="headrace-", dir=self._scratch_dir) as scratch:
                files = await put_together(self._store, manifest, shard, closed.index, Path(scratch))
                for kind in KINDS:
                    await self._create_file(keys[kind], files, kind)
        num_output = files.num_lines["output"]
        assert num_output == shard.completed, f"{shard.batch_id}: {num_output} lines, {shard.completed} completed"
        return ShardClosed(
            status=shard.how_closed or "",
            closed_at=closed.closed_at,
            completed=shard.completed,
            failed=shard.failed,
            not_run=shard.num_lines - shard.num_answered,
            usage=shard.usage,
            error_codes=dict(shard.error_codes),
        )

    async def _create_file(self, key: str, files: ResultFiles, kind: str) -> None:
        if files.num_lines[kind]:
            with contextlib.suppress(ObjectExists):  # an earlier try left the same content
                await self._store.adopt(key, files.paths[kind])

    async def _create_final(
        self, manifest: BatchCreated, closed: ClosedShard, shards: list[ShardClosed]
    ) -> BatchClosed:
        finalizing_at = max(record.closed_at for record in shards)
        closed_at = max(int(time.time()), finalizing_at)
        files = {
            kind: await self._result_file(manifest, kind, closed_at)
            for kind in KINDS
            if any(_num_lines(record, kind) for record in shards)
        }
        usage, error_codes = Usage(), dict[str, int]()
        for record in shards:
            usage = usage.plus(record.usage)
            add_codes(error_codes, record.error_codes)
        final = BatchClosed(
            status=batch_status({record.status for record in shards}),
            finalizing_at=finalizing_at,
            closed_at=closed_at,
            total=closed.shard.batch_total,
            completed=sum(record.completed for record in shards),
            failed=sum(record.failed for record in shards),
            not_run=sum(record.not_run for record in shards),
            usage=usage,
            error_codes=error_codes,
            output_file_id=files["output"].id if "output" in files else None,
            error_file_id=files["error"].id if "error" in files else None,
            files=tuple(files.values()),
        )
        if await self._create_once(final_key(manifest.id), encode(final)):
            self._num_closed.add(1, {"status": final.status})
            self._duration.record(final.closed_at - manifest.created_at, {"status": final.status})
            log.info(
                "batch closed",
                **of_batch(manifest),
                status=final.status,
                completed=final.completed,
                failed=final.failed,
                not_run=final.not_run,
            )
        known = await read_json(self._store, final_key(manifest.id), BatchClosed)
        assert known is not None, "an object that was created can be read"
        return known

    async def _result_file(self, manifest: BatchCreated, kind: str, closed_at: int) -> StoredFile:
        file_id = identifiers.result_file_id(manifest.id, kind)
        return StoredFile(
            id=file_id,
            purpose="batch_output",
            filename=RESULT_FILENAME.format(batch_id=manifest.id, kind=kind),
            bytes=await self._store.size(file_key(file_id)) or 0,
            created_at=closed_at,
            object_key=file_key(file_id),
            expires_at=closed_at + (manifest.output_expires_after_s or self._expires_after_s),
            tenant=manifest.tenant,
            created_ns=time.time_ns(),
        )

    async def _create_once(self, key: str, data: bytes) -> bool:
        """Whether this call did."""
        try:
            await self._store.create(key, data)
        except ObjectExists:
            return False
        return True


def batch_status(shard_statuses: set[str]) -> str:
    """How a batch ended whose shards ended so: one that was cut short cuts the batch short."""
    for status in (CANCELLED, EXPIRED):
        if status in shard_statuses:
            return status
    return COMPLETED


def _num_lines(record: ShardClosed, kind: str) -> int:
    return record.completed if kind == "output" else record.num_errors
