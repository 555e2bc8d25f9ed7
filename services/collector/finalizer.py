"""How does a closed batch become files? SHELL: result files in input order, create-only, then the terminal record.

Every step may be repeated: result files have ids derived from the batch's, their content is a function of the log,
and the first `final.json` wins. Memory is bounded: lines go from segments to scratch to the result files on disk.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from array import array
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog

from services.collector.ledger import CANCELLED, EXPIRED, Shard
from services.collector.segment import Entry
from shared import identifiers
from shared.errors import ObjectExists, ObjectNotFound
from shared.jsonl import LineReader
from shared.messages import BatchClosed, BatchCreated, StoredFile, encode
from shared.object_store import ObjectStore, file_key, final_key, manifest_key
from shared.openai_batch import (
    CANCELLED_CODE,
    CANCELLED_MESSAGE,
    EXPIRED_CODE,
    EXPIRED_MESSAGE,
    decode_request_line,
    unanswered_line,
)
from shared.telemetry import Telemetry, context_from
from shared.topics import RECORD_BYTES_MAX, SHARD_LINES

log = structlog.get_logger(__name__)

_NOT_RUN = {CANCELLED: (CANCELLED_CODE, CANCELLED_MESSAGE), EXPIRED: (EXPIRED_CODE, EXPIRED_MESSAGE)}
READ_BYTES = 8 * 1024 * 1024
# Lines between two breaths of the event loop while files are put together.
LINES_PER_TURN = 2_000
_MISSING, _FAILED, _COMPLETED = 0, 1, 2


class LineIndex:
    """Where each line of a batch shard is: segment, position, length and outcome; 17 bytes a line."""

    def __init__(self, num_lines: int) -> None:
        self._spans: list[tuple[str, int, int]] = []
        self._numbers = array("I", bytes(4 * num_lines))
        self._positions = array("Q", bytes(8 * num_lines))
        self._lengths = array("I", bytes(4 * num_lines))
        self.outcomes = bytearray(num_lines)

    def add(self, segment_key: str, entry: Entry) -> None:
        """Note a line that became durable."""
        end = entry.position + entry.length
        if not self._spans or self._spans[-1][0] != segment_key:
            self._spans.append((segment_key, entry.position, end))
        self._spans[-1] = (segment_key, self._spans[-1][1], end)
        line = entry.line % SHARD_LINES
        self._numbers[line] = len(self._spans) - 1
        self._positions[line] = entry.position
        self._lengths[line] = entry.length
        self.outcomes[line] = _COMPLETED if entry.kind == "completed" else _FAILED

    def span(self, number: int) -> tuple[str, int, int]:
        """Segment `number`'s key, and the first and last byte (exclusive) that this batch has in it."""
        return self._spans[number]

    @property
    def num_segments(self) -> int:
        """Segments that hold lines of this batch."""
        return len(self._spans)

    def place(self, line: int) -> tuple[int, int, int]:
        """Segment number, position and length of a line."""
        return self._numbers[line], self._positions[line], self._lengths[line]


@dataclass(frozen=True, slots=True)
class ClosedShard:
    """A closed shard whose last record is durable, with what finalising needs."""

    shard: Shard
    index: LineIndex
    closed_at: int


class Finalizer:
    """Turns closed batches into files."""

    def __init__(
        self, store: ObjectStore, scratch_dir: Path | None, result_expires_after_s: int, telemetry: Telemetry
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._scratch_dir = scratch_dir
        self._expires_after_s = result_expires_after_s

    async def finalize(self, batch: ClosedShard) -> BatchClosed | None:
        """Make files and `final.json` durable; safe to repeat at any point. None for a batch without a manifest."""
        shard = batch.shard
        try:
            manifest = msgspec.json.decode(await self._store.read(manifest_key(shard.batch_id)), type=BatchCreated)
        except ObjectNotFound:
            return None
        with self._telemetry.tracer.start_as_current_span(
            "finalise batch", context_from(manifest.traceparent), attributes={"headrace.batch.id": shard.batch_id}
        ):
            return await self._make_durable(batch, manifest)

    async def _make_durable(self, batch: ClosedShard, manifest: BatchCreated) -> BatchClosed:
        shard = batch.shard
        assert shard.total <= SHARD_LINES, f"{shard.batch_id}: batches of several shards are refused at validation"
        known = await self._known_final(shard.batch_id)
        if known is None:
            with tempfile.TemporaryDirectory(prefix="headrace-", dir=self._scratch_dir) as scratch:
                output, errors = await self._write_files(batch, manifest, Path(scratch))
            known = await self._create_final(batch, manifest, output, errors)
        return known

    async def _known_final(self, batch_id: str) -> BatchClosed | None:
        try:
            return msgspec.json.decode(await self._store.read(final_key(batch_id)), type=BatchClosed)
        except ObjectNotFound:
            return None

    async def _write_files(self, batch: ClosedShard, manifest: BatchCreated, scratch: Path) -> tuple[int, int]:
        """Create the two result files; how many lines each has. A file without lines is not created."""
        paths = {kind: scratch / kind for kind in ("output", "error")}
        with contextlib.ExitStack() as stack:
            spans = await self._fetch_spans(batch.index, scratch, stack)
            output = stack.enter_context(paths["output"].open("wb"))
            error = stack.enter_context(paths["error"].open("wb"))
            counts = await self._copy_lines(batch, manifest, spans, output, error)
        for kind, num_lines in zip(("output", "error"), counts, strict=True):
            if num_lines:
                key = file_key(identifiers.result_file_id(batch.shard.batch_id, kind))
                with paths[kind].open("rb") as content, contextlib.suppress(ObjectExists):
                    await self._store.create(key, content)  # an earlier try left the same content
        return counts

    async def _fetch_spans(
        self, index: LineIndex, scratch: Path, stack: contextlib.ExitStack
    ) -> Mapping[int, tuple[BinaryIO, int]]:
        """Copy the part of each segment that holds lines of the batch to local files: file and its first position."""
        spans: dict[int, tuple[BinaryIO, int]] = {}
        for number in range(index.num_segments):
            key, first, last = index.span(number)
            local = stack.enter_context((scratch / f"segment-{number}").open("w+b"))
            for start in range(first, last, READ_BYTES):
                local.write(await self._store.read(key, start, min(READ_BYTES, last - start)))
            local.flush()
            spans[number] = (local, first)
        return spans

    async def _copy_lines(
        self,
        batch: ClosedShard,
        manifest: BatchCreated,
        spans: Mapping[int, tuple[BinaryIO, int]],
        output: BinaryIO,
        error: BinaryIO,
    ) -> tuple[int, int]:
        shard, index = batch.shard, batch.index
        num_output = num_error = 0
        not_run = self._custom_ids(manifest) if shard.num_answered < shard.total else None
        for line in range(shard.total):
            custom_id = await anext(not_run) if not_run is not None else ""
            outcome = index.outcomes[line]
            if outcome == _MISSING:
                code, message = _NOT_RUN[shard.how_closed or ""]
                value = unanswered_line(
                    batch_id=shard.batch_id, line=line, custom_id=custom_id, code=code, message=message
                )
            else:
                number, position, length = index.place(line)
                local, first = spans[number]
                value = os.pread(local.fileno(), length, position - first)
                assert len(value) == length, f"{shard.batch_id} line {line}: {len(value)} of {length} bytes"
            if outcome == _COMPLETED:
                num_output += 1
                output.write(value)
            else:
                num_error += 1
                error.write(value)
            if line % LINES_PER_TURN == 0:
                await asyncio.sleep(0)
        return num_output, num_error

    async def _custom_ids(self, manifest: BatchCreated) -> AsyncIterator[str]:
        """The custom_id of each line of the input file, in line order."""
        reader = LineReader(RECORD_BYTES_MAX)
        async for chunk in self._store.stream(file_key(manifest.input_file_id)):
            for line in reader.feed(chunk):
                yield decode_request_line(line.value or b"").custom_id
        for line in reader.finish():
            yield decode_request_line(line.value or b"").custom_id

    async def _create_final(
        self, batch: ClosedShard, manifest: BatchCreated, num_output: int, num_error: int
    ) -> BatchClosed:
        shard = batch.shard
        assert num_output == shard.completed, f"{shard.batch_id}: {num_output} lines, {shard.completed} completed"
        closed_at = max(int(time.time()), batch.closed_at)
        files = {
            kind: await self._result_file(manifest, kind, closed_at)
            for kind, num_lines in (("output", num_output), ("error", num_error))
            if num_lines
        }
        closed = BatchClosed(
            status=shard.how_closed or "",
            finalizing_at=batch.closed_at,
            closed_at=closed_at,
            total=shard.total,
            completed=shard.completed,
            failed=shard.failed,
            not_run=shard.total - shard.num_answered,
            usage=shard.usage,
            output_file_id=files["output"].id if "output" in files else None,
            error_file_id=files["error"].id if "error" in files else None,
            files=tuple(files.values()),
        )
        try:
            await self._store.create(final_key(shard.batch_id), encode(closed))
        except ObjectExists:
            known = await self._known_final(shard.batch_id)
            assert known is not None, "an object that exists can be read"
            return known
        return closed

    async def _result_file(self, manifest: BatchCreated, kind: str, closed_at: int) -> StoredFile:
        file_id = identifiers.result_file_id(manifest.id, kind)
        return StoredFile(
            id=file_id,
            purpose="batch_output",
            filename=f"{manifest.id}_{kind}.jsonl",
            bytes=await self._store.size(file_key(file_id)) or 0,
            created_at=closed_at,
            object_key=file_key(file_id),
            expires_at=closed_at + (manifest.output_expires_after_s or self._expires_after_s),
            tenant=manifest.tenant,
        )
