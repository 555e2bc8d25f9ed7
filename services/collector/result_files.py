"""How are the lines of a shard put into two files? SHELL: from segments to local scratch, in input order.

Memory is bounded: the parts of the segments that hold lines of the shard are copied to local files, and lines go from
there to the output and the error file. Lines that never ran become error lines, named by the input file.
"""

import asyncio
import contextlib
from array import array
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from services.collector.ledger import CANCELLED, EXPIRED, Shard
from services.collector.scratch_spans import ScratchSpans
from shared.claim_check import REQUEST_BYTES_MAX
from shared.guesses import CANCELLED_MESSAGE
from shared.identifiers import request_id
from shared.jsonl import LineReader
from shared.messages import BatchCreated
from shared.object_store import ObjectStore, file_key, offset_of_segment
from shared.openai_batch import (
    CANCELLED_CODE,
    EXPIRED_CODE,
    EXPIRED_MESSAGE,
    decode_request_line,
    unanswered_line,
)
from shared.segment import Entry
from shared.topics import SHARD_LINES

KINDS = ("output", "error")
_NOT_RUN = {CANCELLED: (CANCELLED_CODE, CANCELLED_MESSAGE), EXPIRED: (EXPIRED_CODE, EXPIRED_MESSAGE)}
WRITE_BYTES = 1024 * 1024
# Lines between two breaths of the event loop while files are put together.
LINES_PER_TURN = 2_000
_MISSING, _FAILED, _COMPLETED = 0, 1, 2


class LineIndex:
    """Where each line of a batch shard is: segment, position, length and outcome; 17 bytes a line."""

    def __init__(self) -> None:
        self._spans: list[tuple[str, int, int]] = []
        self._numbers, self._positions, self._lengths = array("I"), array("Q"), array("I")
        self._outcomes = bytearray()

    def add(self, segment_key: str, entry: Entry) -> None:
        """Note a line that became durable."""
        end = entry.position + entry.length
        if not self._spans or self._spans[-1][0] != segment_key:
            self._spans.append((segment_key, entry.position, end))
        self._spans[-1] = (segment_key, self._spans[-1][1], end)
        line = entry.line % SHARD_LINES
        if line >= len(self._outcomes):
            self._grow(max(line + 1, min(SHARD_LINES, 2 * len(self._outcomes))))
        self._numbers[line] = len(self._spans) - 1
        self._positions[line] = entry.position
        self._lengths[line] = entry.length
        self._outcomes[line] = _COMPLETED if entry.kind == "completed" else _FAILED

    def _grow(self, num_lines: int) -> None:
        """Room for so many lines: a batch that grows while it runs says how many it may have, not how many it will."""
        more = num_lines - len(self._outcomes)
        self._numbers.frombytes(bytes(self._numbers.itemsize * more))
        self._positions.frombytes(bytes(self._positions.itemsize * more))
        self._lengths.frombytes(bytes(self._lengths.itemsize * more))
        self._outcomes.extend(bytes(more))

    def span(self, number: int) -> tuple[str, int, int]:
        """Segment `number`'s key, and the first and last byte (exclusive) that this shard has in it."""
        return self._spans[number]

    @property
    def first_offset(self) -> int | None:
        """The offset that names the first segment with lines of this shard."""
        return offset_of_segment(self._spans[0][0]) if self._spans else None

    @property
    def num_segments(self) -> int:
        """Segments that hold lines of this shard."""
        return len(self._spans)

    def outcome(self, line: int) -> int:
        """Whether a line (0-based, in the batch) is missing, failed or completed."""
        index = line % SHARD_LINES
        return self._outcomes[index] if index < len(self._outcomes) else _MISSING

    def place(self, line: int) -> tuple[int, int, int]:
        """Segment number, position and length of a line (0-based, in the batch)."""
        index = line % SHARD_LINES
        return self._numbers[index], self._positions[index], self._lengths[index]


@dataclass(frozen=True, slots=True)
class ResultFiles:
    """Two local files and how many lines each has."""

    paths: Mapping[str, Path]
    num_lines: Mapping[str, int]


async def put_together(
    store: ObjectStore, manifest: BatchCreated, shard: Shard, index: LineIndex, scratch: Path
) -> ResultFiles:
    """Write the shard's output and error file into the folder `scratch`; a function of the shard's segments alone."""
    paths = {kind: scratch / kind for kind in KINDS}
    with contextlib.ExitStack() as stack:
        spans = await _fetch_spans(store, index, scratch, stack)
        output, error = (stack.enter_context(paths[kind].open("wb", WRITE_BYTES)) for kind in KINDS)
        not_run = _custom_ids(store, manifest, shard) if shard.num_answered < shard.num_lines else None
        num_lines = await _copy_lines(shard, index, spans, not_run, output, error)
    return ResultFiles(paths, num_lines)


async def _fetch_spans(
    store: ObjectStore, index: LineIndex, scratch: Path, stack: contextlib.ExitStack
) -> ScratchSpans:
    """The part of each segment that holds lines of the shard, as local files."""
    spans = ScratchSpans()
    for number in range(index.num_segments):
        key, first, last = index.span(number)
        path, begins_at = await store.local_copy(key, first, last, scratch / f"segment-{number}")
        spans.add(number, stack.enter_context(path.open("rb")), begins_at)
    return spans


async def _copy_lines(
    shard: Shard,
    index: LineIndex,
    spans: ScratchSpans,
    not_run: AsyncIterator[str] | None,
    output: BinaryIO,
    error: BinaryIO,
) -> dict[str, int]:
    num_output = num_error = 0
    first_line = shard.number * SHARD_LINES
    for line in range(first_line, first_line + shard.num_lines):
        custom_id = await anext(not_run) if not_run is not None else ""
        outcome = index.outcome(line)
        if outcome == _MISSING:
            code, message = _NOT_RUN[shard.how_closed or ""]
            value = unanswered_line(
                answer_id=request_id(shard.batch_id, line), custom_id=custom_id, code=code, message=message
            )
        else:
            number, position, length = index.place(line)
            value = spans.read(number, position, length)
            assert len(value) == length, f"{shard.batch_id} line {line}: {len(value)} of {length} bytes"
        if outcome == _COMPLETED:
            num_output += 1
            output.write(value)
        else:
            num_error += 1
            error.write(value)
        if line % LINES_PER_TURN == 0:
            await asyncio.sleep(0)
    return {"output": num_output, "error": num_error}


async def _custom_ids(store: ObjectStore, manifest: BatchCreated, shard: Shard) -> AsyncIterator[str]:
    """The custom_id of each line of the shard, in line order."""
    reader = LineReader(REQUEST_BYTES_MAX)
    first_line = shard.number * SHARD_LINES
    async for chunk in store.stream(file_key(manifest.input_file_id)):
        for line in reader.feed(chunk):
            if line.number >= first_line:
                yield decode_request_line(line.value or b"").custom_id
    for line in reader.finish():
        if line.number >= first_line:
            yield decode_request_line(line.value or b"").custom_id
