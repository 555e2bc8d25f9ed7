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
from shared.batch_state import BatchView
from shared.errors import HeadraceError
from shared.jsonl import Line
from shared.line_times import LineTimes, parse_times
from shared.log_reader import LogReader, LogTruncated, Record
from shared.messages import UnreadableRecord
from shared.object_store import ObjectStore, chain_prefix, offset_of_segment
from shared.record_headers import CompletionHeaders, read_completion_headers
from shared.segment import Entry, Footer
from shared.segment_tail import read_segment_tail
from shared.topics import Topics, completion_key, partition_of, shard_of_line

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
        self, *, store: ObjectStore, topics: Topics, log_id: str, new_reader: Callable[[], LogReader], trace_url: str
    ) -> None:
        """`trace_url` = where a trace is shown, with `{trace_id}` in it; empty = nowhere."""
        self._store = store
        self._completions = topics.completions
        self._log_id = log_id
        self._new_reader = new_reader
        self._trace_url = trace_url

    async def tell(self, view: BatchView, custom_id: str) -> dict[str, Any]:
        """The story of a line; raises NoSuchLine, ObjectNotFound when the input file is gone, UnavailableError."""
        number = await self._number_of(view, custom_id)
        found = await self._entry_of(view, number)
        record = await self._record_of(view.created.id, number, found[0]) if found else None
        return story(view, custom_id, number, found, record, self._trace_url)

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

    async def _record_of(self, batch_id: str, number: int, footer: Footer) -> tuple[Record, CompletionHeaders] | None:
        """The completion's record, if the log still has it."""
        tp, reader, num_empty = TopicPartition(footer.topic, footer.partition), self._new_reader(), 0
        try:
            await reader.open({tp: footer.first_offset})
            while reader.positions[tp] < footer.next_offset and num_empty < EMPTY_POLLS_MAX:
                records = await reader.poll(timeout_ms=POLL_TIMEOUT_MS, max_records=POLL_RECORDS)
                num_empty = 0 if records else num_empty + 1
                for record in records:
                    if (headers := _headers_of(record)) and (headers.batch_id, headers.line) == (batch_id, number):
                        return record, headers
        except LogTruncated:
            return None
        finally:
            await reader.close()
        return None


def story(
    view: BatchView,
    custom_id: str,
    number: int,
    found: tuple[Footer, Entry] | None,
    completion: tuple[Record, CompletionHeaders] | None,
    trace_url: str,
) -> dict[str, Any]:
    """What is known of a line, as it is answered; times are Unix seconds, null where nobody knows. PURE."""
    headers = completion[1] if completion else None
    times = parse_times(headers.times) if headers else None
    trace_id = headers.traceparent.split("-")[1] if headers and headers.traceparent else None
    return {
        "object": "batch.line",
        "batch_id": view.created.id,
        "custom_id": custom_id,
        "line": number + 1,
        "status": _status(view, number, found),
        "error_code": headers.error_code if headers else None,
        "worker": times.worker if times else None,
        "attempt": times.attempt if times else None,
        "trace_id": trace_id,
        "trace_url": trace_url.replace("{trace_id}", trace_id) if trace_url and trace_id else None,
        "steps": _steps(view, found, completion, times),
        "seconds": _seconds(times, completion[0] if completion else None, found[0] if found else None),
    }


def _status(view: BatchView, number: int, found: tuple[Footer, Entry] | None) -> str:
    if found is not None:
        return found[1].kind
    if view.is_terminal:
        return "not_run" if view.closed and view.closed.not_run else "unknown"
    return "dispatched" if view.dispatch and view.dispatch.is_dispatched(number) else "waiting"


def _steps(
    view: BatchView,
    found: tuple[Footer, Entry] | None,
    completion: tuple[Record, CompletionHeaders] | None,
    times: LineTimes | None,
) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"step": "accepted", "at": float(view.created.created_at)},
        {"step": "validated", "at": _seconds_of(view.dispatch.in_progress_at) if view.dispatch else None},
        {"step": "dispatched", "at": _from_ms(times.sent_ms) if times else None},
        {"step": "taken", "at": _from_ms(times.taken_ms) if times else None},
        {"step": "into the engine", "at": _from_ms(times.entered_ms) if times else None},
        {"step": "out of the engine", "at": _from_ms(times.left_ms) if times else None},
    ]
    record = completion[0] if completion else None
    produced: dict[str, Any] = {"step": "produced", "at": record.timestamp / 1000 if record else None}
    if record is not None:
        produced |= {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    collected: dict[str, Any] = {"step": "collected", "at": _from_ms(found[0].written_at_ms) if found else None}
    if found is not None:
        collected |= {"partition": found[0].partition, "first_offset": found[0].first_offset}
    in_file: dict[str, Any] = {"step": "in a file", "at": _seconds_of(view.closed.closed_at) if view.closed else None}
    if view.closed is not None and found is not None:
        is_output = found[1].kind == "completed"
        in_file["file_id"] = view.closed.output_file_id if is_output else view.closed.error_file_id
    return [*steps, produced, collected, in_file]


def _seconds(times: LineTimes | None, record: Record | None, footer: Footer | None) -> dict[str, float | None]:
    """How long each part took, as far as both of its ends are known."""
    if times is None or record is None:
        return dict.fromkeys(("in_topic", "beside_engine", "in_engine", "publishing", "collecting"))
    ran = times.entered_ms > 0
    written_ms = footer.written_at_ms if footer and footer.written_at_ms else None
    return {
        "in_topic": _between(times.sent_ms, times.taken_ms),
        "beside_engine": _between(times.taken_ms, times.entered_ms) if ran else None,
        "in_engine": _between(times.entered_ms, times.left_ms) if ran else None,
        "publishing": _between(times.left_ms or times.taken_ms, record.timestamp),
        "collecting": _between(record.timestamp, written_ms) if written_ms else None,
    }


def _between(begin_ms: int, end_ms: int) -> float:
    return round((end_ms - begin_ms) / 1000, 3)


def _from_ms(at_ms: int) -> float | None:
    return at_ms / 1000 if at_ms else None


def _seconds_of(at_s: int | None) -> float | None:
    return float(at_s) if at_s is not None else None


def _headers_of(record: Record) -> CompletionHeaders | None:
    try:
        headers = read_completion_headers(record.headers)
    except UnreadableRecord:
        return None
    return headers if headers.kind == "line" else None
