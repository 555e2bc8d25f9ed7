"""The lines of a batch in one order that only grows, whatever is collected meanwhile and wherever a reader goes on."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.live_results import Cursor, LiveResults, SegmentsGone
from shared.batch_state import BatchView
from shared.identifiers import request_id, result_file_id
from shared.messages import BatchClosed, BatchCreated, BatchDispatched, ShardProgressed
from shared.object_store import chain_prefix, file_key
from shared.openai_batch import unanswered_line
from shared.record_headers import CompletionHeaders
from shared.segment import SegmentBuilder
from shared.settings import KafkaSettings
from shared.topics import SHARD_LINES, Topics
from tests.fakes import MemoryObjectStore

TOPICS = Topics(KafkaSettings(completions_partitions=1))
ID, OTHER = "batch_1", "batch_2"
TOTAL = 12


def value_of(batch_id: str, line: int) -> bytes:
    return unanswered_line(answer_id=request_id(batch_id, line), custom_id=str(line), code="c", message="m")


class World:
    """A store with segments, and a view that shows one batch."""

    def __init__(self) -> None:
        self.store = MemoryObjectStore()
        self.next_offset = 0
        self.shown = BatchView(
            BatchCreated(id=ID, endpoint="e", input_file_id="f", completion_window="24h", created_at=1, expires_at=9),
            dispatch=BatchDispatched(in_progress_at=1, total=TOTAL, model="m"),
            progress={"0": ShardProgressed(completed=1, failed=0, first_offset=0)},
        )
        view: Any = self
        self.results = LiveResults(store=self.store, view=view, topics=TOPICS, log_id="log")

    def batch(self, _id: str) -> BatchView:
        return self.shown

    def segment(self, lines: list[tuple[str, int]], kind: str = "line") -> None:
        builder = SegmentBuilder(TOPICS.completions.name, 0, self.next_offset, hashlib.sha256().hexdigest())
        for batch_id, line in lines:
            headers = CompletionHeaders(kind=kind, batch_id=batch_id, line=line, total=TOTAL)
            builder.add(headers, value_of(batch_id, line) if kind == "line" else b"")
        segment = builder.build(self.next_offset + len(lines))
        self.store.objects[f"{chain_prefix('log', TOPICS.completions.name, 0)}{self.next_offset:020d}"] = segment.data
        self.next_offset += len(lines)

    def close(self, **changes: Any) -> None:
        base: dict[str, Any] = {"status": "completed", "finalizing_at": 1, "closed_at": 1, "total": TOTAL}
        closed = BatchClosed(**(base | {"completed": 0, "failed": TOTAL, "not_run": 0} | changes))
        self.shown = BatchView(
            self.shown.created, dispatch=self.shown.dispatch, progress=self.shown.progress, closed=closed
        )

    async def read(self, cursor: Cursor) -> list[bytes]:
        return [value async for value in self.results.stream(ID, cursor, follow=False)]


@given(st.permutations(range(TOTAL)), st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
async def test_a_reader_gets_every_line_once_in_pieces_of_any_size(
    order: list[int], sizes: list[int], data: st.DataObject
) -> None:
    world, got, waiting = World(), list[bytes](), list(order)
    for size in [*sizes, TOTAL]:
        lines = [(ID, waiting.pop()) for _ in range(min(size, len(waiting)))]
        world.segment([*lines, (OTHER, 0)])
        by_id = data.draw(st.booleans()) and got
        last = request_id(ID, [value_of(ID, n) for n in range(TOTAL)].index(got[-1])) if by_id else None
        got += await world.read(Cursor(after_id=last) if last else Cursor(skip=len(got)))
    world.close()

    assert got == [value_of(ID, line) for line in reversed(order)]
    assert await world.read(Cursor(skip=len(got))) == []
    assert await world.read(Cursor()) == got


async def test_lines_that_never_ran_follow_from_the_error_file() -> None:
    world = World()
    world.segment([(ID, 3), (ID, 1)])
    world.segment([(ID, 0)], kind="cancel")
    late = [
        unanswered_line(answer_id=request_id(ID, n), custom_id=str(n), code="batch_cancelled", message="m")
        for n in range(TOTAL)
        if n not in (1, 3)
    ]
    error_file = result_file_id(ID, "error")
    world.store.objects[file_key(error_file)] = b"".join(
        [late[0], value_of(ID, 1), late[1], value_of(ID, 3), *late[2:]]
    )
    world.close(status="cancelled", failed=2, not_run=TOTAL - 2, error_file_id=error_file)

    whole = await world.read(Cursor())

    assert whole == [value_of(ID, 3), value_of(ID, 1), *late]
    for number in range(TOTAL):
        assert await world.read(Cursor(skip=number)) == whole[number:]
    assert await world.read(Cursor(after_id=request_id(ID, 1))) == late


async def test_batch_whose_segments_were_removed_says_so() -> None:
    world = World()
    world.segment([(ID, line) for line in range(TOTAL)])
    world.close()
    await world.results.check(world.shown)
    world.store.objects.clear()

    with pytest.raises(SegmentsGone):
        await world.results.check(world.shown)


async def test_shard_that_was_cut_short_before_its_first_line_has_no_segment_to_miss() -> None:
    world = World()
    world.segment([(ID, line) for line in range(TOTAL)])
    world.close(status="cancelled", total=SHARD_LINES + 5, failed=TOTAL, not_run=SHARD_LINES + 5 - TOTAL)

    await world.results.check(world.shown)
