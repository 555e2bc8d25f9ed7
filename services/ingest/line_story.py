"""Why did one line take so long? SHELL: what log and store know of it, put in the order of time.

The input file says which line it is, the segments where its completion lies, and that record's headers when its worker
had it. The log forgets completions after some days; what is in the store stays.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from aiokafka import TopicPartition

from services.ingest.line_source import read_lines
from services.ingest.line_stream import LineStream
from services.ingest.story import Found, Produced, story
from shared.batch_state import BatchView
from shared.errors import HeadraceError
from shared.jsonl import Line
from shared.log_reader import LogReader, LogTruncated, Record
from shared.messages import UnreadableRecord
from shared.object_store import ObjectStore, chain_prefix, offset_of_segment
from shared.record_headers import CompletionHeaders, read_completion_headers
from shared.segment import Entry, Footer
from shared.segment_tail import read_segment_tail
from shared.telemetry import Telemetry
from shared.topics import Topics, completion_key, partition_of, shard_of_line
from shared.trace_context import line_trace

POLL_TIMEOUT_MS, POLL_RECORDS = 1_000, 2_000
# A record that is not there although the log should have it: so many empty polls say so.
EMPTY_POLLS_MAX = 3


class NoSuchLine(HeadraceError):
    """The batch has no line of that custom_id."""


class _Head(msgspec.Struct):
    custom_id: str


_decoder = msgspec.json.Decoder(_Head)


class LineStories:
    """Tells of single lines."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        topics: Topics,
        log_id: str,
        new_reader: Callable[[], LogReader],
        telemetry: Telemetry,
        trace_url: str,
    ) -> None:
        """`trace_url` = where a trace is shown, with `{trace_id}` in it; empty = nowhere."""
        self._store = store
        self._completions = topics.completions
        self._log_id = log_id
        self._new_reader = new_reader
        self._telemetry = telemetry
        self._trace_url = trace_url

    async def tell(self, view: BatchView, custom_id: str) -> dict[str, Any]:
        """The story of a line; raises NoSuchLine, ObjectNotFound when the input file is gone, UnavailableError."""
        number = await self._number_of(view, custom_id)
        segment = await self._entry_of(view, number)
        produced = await self._record_of(view.created.id, number, segment[0]) if segment else None
        failed = segment is not None and segment[1].kind == "failed"
        traced = self._telemetry.enabled and (failed or self._telemetry.traces_line(view.created.id, number))
        trace_id = line_trace(view.created.id, number).trace_id if traced else None
        return story(view, custom_id, Found(number, trace_id, segment, produced), self._trace_url)

    async def _number_of(self, view: BatchView, custom_id: str) -> int:
        needle = msgspec.json.encode(custom_id).strip(b'"')
        is_plain = custom_id.isascii() and b"\\" not in needle  # otherwise it may be written in other ways
        async for line in self._lines(view):
            value = line.value or b""
            if is_plain and needle not in value and b"\\" not in value:
                continue
            try:
                if _decoder.decode(value).custom_id == custom_id:
                    return line.number
            except (msgspec.MsgspecError, RecursionError):
                continue
        raise NoSuchLine(f"The batch '{view.created.id}' has no line with the custom_id '{custom_id}'.")

    def _lines(self, view: BatchView) -> AsyncIterator[Line]:
        created = view.created
        if created.growth is not None and (view.dispatch is None or view.dispatch.growing):
            return LineStream(self._store, created.id).lines()
        return read_lines(self._store, created.input_file_id)

    async def _entry_of(self, view: BatchView, number: int) -> tuple[Footer, Entry] | None:
        """The line in the chain of its shard, and the segment's footer."""
        batch_id, shard = view.created.id, shard_of_line(number)
        progress = view.progress.get(str(shard))
        if progress is None or progress.first_offset is None:
            return None  # none of its lines is in a segment of this log
        num_left = progress.completed + progress.failed
        partition = partition_of(completion_key(batch_id, shard), self._completions.partitions)
        for key in await self._store.keys(chain_prefix(self._log_id, self._completions.name, partition)):
            if offset_of_segment(key) < progress.first_offset:
                continue
            if num_left <= 0:
                break
            footer, entries = await read_segment_tail(self._store, key)
            mine = [e for e in entries if e.batch_id == batch_id and e.is_line and shard_of_line(e.line) == shard]
            if found := [entry for entry in mine if entry.line == number]:
                return footer, found[0]
            num_left -= len(mine)
        return None

    async def _record_of(self, batch_id: str, number: int, footer: Footer) -> Produced | None:
        """The completion's record, if the log still has it."""
        tp, reader, num_empty = TopicPartition(footer.topic, footer.partition), self._new_reader(), 0
        try:
            await reader.open({tp: footer.first_offset})
            while reader.positions[tp] < footer.next_offset and num_empty < EMPTY_POLLS_MAX:
                records = await reader.poll(timeout_ms=POLL_TIMEOUT_MS, max_records=POLL_RECORDS)
                num_empty = 0 if records else num_empty + 1
                for record in records:
                    if (headers := _headers_of(record)) and (headers.batch_id, headers.line) == (batch_id, number):
                        return Produced(record.topic, record.partition, record.offset, record.timestamp, headers)
        except LogTruncated:
            return None
        finally:
            await reader.close()
        return None


def _headers_of(record: Record) -> CompletionHeaders | None:
    try:
        headers = read_completion_headers(record.headers)
    except UnreadableRecord:
        return None
    return headers if headers.kind == "line" else None
