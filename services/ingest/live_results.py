"""Which lines of a batch are finished, while it runs? SHELL: read from the segments that the collectors leave.

The lines have one order that only grows: shard after shard, within one as their completions lie in the log, and after
all of them those that never ran, from the error file. A reader goes on after the id of the last line that it has, or
after as many lines as it has.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import msgspec

from services.ingest.read_model import ReadModel
from shared.batch_state import BatchView
from shared.claim_check import RESULT_BYTES_MAX
from shared.errors import HeadraceError
from shared.identifiers import request_id
from shared.jsonl import LineReader
from shared.object_store import ObjectStore, chain_prefix, file_key, offset_of_segment
from shared.openai_batch import CANCELLED_CODE, EXPIRED_CODE
from shared.segment import Entry
from shared.segment_tail import read_segment_tail
from shared.topics import (
    Topics,
    completion_key,
    lines_of_shard,
    num_shards,
    partition_of,
    shard_of_line,
)

POLL_S = 0.25
_NOT_RUN = frozenset({EXPIRED_CODE, CANCELLED_CODE})


class SegmentsGone(HeadraceError):
    """The batch ended so long ago that its segments were removed; its files tell everything."""


class _LineError(msgspec.Struct):
    code: str | int | None = None


class _Head(msgspec.Struct):
    id: str
    response: msgspec.Raw | None = None
    error: _LineError | None = None


_head_decoder = msgspec.json.Decoder(_Head)


@dataclass(slots=True)
class Cursor:
    """What the reader has: `skip` lines, or everything up to and with the line `after_id`."""

    skip: int = 0
    after_id: str | None = None

    def passes(self, line_id: str) -> bool:
        """Whether this line, the next in order, is new to the reader."""
        if self.after_id is not None:
            if line_id == self.after_id:
                self.after_id = None
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        return True


class LiveResults:
    """Finished lines of batches."""

    def __init__(self, *, store: ObjectStore, view: ReadModel, topics: Topics, log_id: str) -> None:
        self._store = store
        self._view = view
        self._completions = topics.completions
        self._log_id = log_id

    async def check(self, view: BatchView) -> None:
        """Raise SegmentsGone when the lines of a batch that ended can no longer be told in order."""
        if not view.closed or not view.closed.completed + view.closed.failed:
            return
        batch_id, shards = view.created.id, range(num_shards(view.closed.total))
        # A shard cut short before its first line has no segment; nor has a batch that ended in an earlier log.
        first = {shard: offset for shard in shards if (offset := _first_offset(view, shard)) is not None}
        keys = [f"{self._prefix(batch_id, shard)}{offset:020d}" for shard, offset in first.items()]
        if not keys or None in [await self._store.size(key) for key in keys]:
            raise SegmentsGone(f"The segments of the batch '{batch_id}' were removed: download its files.")

    async def stream(self, batch_id: str, cursor: Cursor, *, follow: bool) -> AsyncIterator[bytes]:
        """Lines that the reader does not have; with `follow`, until the batch has ended."""
        reading = _Reading(batch_id)
        while (view := self._view.batch(batch_id)) is not None:
            is_over = view.is_terminal
            async for value in self._more(view, reading, cursor):
                yield value
            if is_over or not follow:
                break
            await asyncio.sleep(POLL_S)
        if view is not None and view.closed is not None and view.closed.not_run and view.closed.error_file_id:
            async for value in self._never_ran(view.closed.error_file_id, cursor):
                yield value

    async def _more(self, view: BatchView, reading: "_Reading", cursor: Cursor) -> AsyncIterator[bytes]:
        """What the segments have gained; a shard is read once the ones before it are closed."""
        total = view.created.record_total(view.dispatch.total if view.dispatch else 0)
        while (view.answered or view.closed) and reading.shard < num_shards(total):
            prefix, begin = self._prefix(view.created.id, reading.shard), reading.next_offset
            if begin is None:
                begin = _first_offset(view, reading.shard) or 0
            for key in await self._store.keys(prefix):
                if offset_of_segment(key) < begin:
                    continue
                footer, entries = await read_segment_tail(self._store, key)
                new = [e for e in reading.pick(entries) if cursor.passes(request_id(e.batch_id, e.line))]
                for value in await self._read(key, new):
                    yield value
                reading.next_offset = footer.next_offset
            if not reading.closes(total):
                return
            reading.next_shard()

    async def _read(self, key: str, entries: list[Entry]) -> list[bytes]:
        if not entries:
            return []
        first, last = entries[0].position, entries[-1].position + entries[-1].length
        data = await self._store.read(key, first, last - first)
        return [data[e.position - first : e.position - first + e.length] for e in entries]

    async def _never_ran(self, error_file_id: str, cursor: Cursor) -> AsyncIterator[bytes]:
        reader = LineReader(RESULT_BYTES_MAX)
        async for chunk in self._store.stream(file_key(error_file_id)):
            for line in reader.feed(chunk):
                head = _head_decoder.decode(line.value or b"")
                never_ran = head.response is None and head.error is not None and head.error.code in _NOT_RUN
                if never_ran and cursor.passes(head.id):
                    yield (line.value or b"") + b"\n"

    def _prefix(self, batch_id: str, shard: int) -> str:
        partition = partition_of(completion_key(batch_id, shard), self._completions.partitions)
        return chain_prefix(self._log_id, self._completions.name, partition)


class _Reading:
    """How far one reader has come."""

    def __init__(self, batch_id: str) -> None:
        self._batch_id = batch_id
        self.shard = 0
        self.next_offset: int | None = None
        self._num_lines = 0
        self._is_ended = False
        self._sealed_total: int | None = None

    def pick(self, entries: tuple[Entry, ...]) -> Iterator[Entry]:
        """The lines of the current shard among the entries of its next segment."""
        for entry in entries:
            if entry.batch_id != self._batch_id or shard_of_line(entry.line) != self.shard:
                continue
            if entry.kind == "sealed":
                self._sealed_total = entry.position
            elif entry.is_line:
                self._num_lines += 1
                yield entry
            else:
                self._is_ended = True

    def closes(self, total: int) -> bool:
        """Whether the current shard has nothing more to come."""
        sealed_total = total if self._sealed_total is None else self._sealed_total
        return self._is_ended or self._num_lines >= lines_of_shard(self.shard, sealed_total)

    def next_shard(self) -> None:
        """Go on with the shard after this one."""
        self.shard += 1
        self.next_offset, self._num_lines, self._is_ended = None, 0, False
        self._sealed_total = None


def _first_offset(view: BatchView, shard: int) -> int | None:
    progress = view.progress.get(str(shard))
    return progress.first_offset if progress else None
