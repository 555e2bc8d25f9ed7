"""Closed batches become files in input order; every step may be repeated."""

import json
from typing import Any

import pytest

from services.collector.finalizer import ClosedShard, Finalizer
from services.collector.ledger import Ledger
from services.collector.result_files import LineIndex
from services.collector.segment_chain import SegmentChain
from shared.identifiers import result_file_id
from shared.messages import BatchClosed, BatchCreated, Usage, encode
from shared.object_store import file_key, final_key, manifest_key
from shared.record_headers import CompletionHeaders
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry
from tests.fakes import MemoryObjectStore

MANIFEST = BatchCreated(
    id="batch_1",
    endpoint="/v1/embeddings",
    input_file_id="file-in",
    completion_window="24h",
    created_at=1,
    expires_at=2,
)


def finalizer(store: MemoryObjectStore) -> Finalizer:
    return Finalizer(store, None, 3600, Telemetry("test", TelemetrySettings()), 2)


async def closed_batch(store: MemoryObjectStore, order: list[int], total: int, end: str | None = None) -> ClosedShard:
    """A batch whose lines were completed in this order, three to a segment; odd ones failed."""
    store.objects[manifest_key("batch_1")] = encode(MANIFEST)
    lines = [{"custom_id": f"c{n}", "method": "POST", "url": "u", "body": {}} for n in range(total)]
    store.objects[file_key("file-in")] = "\n".join(map(json.dumps, lines)).encode()
    ledger, chain, index = Ledger(), SegmentChain(store, "log", "completions", 0), LineIndex()
    chain.start_at(0)
    records = [
        CompletionHeaders(kind="line", batch_id="batch_1", line=n, total=total, succeeded=n % 2 == 0, usage=Usage(1, 1))
        for n in order
    ]
    if end:
        records.append(CompletionHeaders(kind=end, batch_id="batch_1", total=total))
    for start in range(0, len(records), 3):
        builder = chain.builder()
        for record in records[start : start + 3]:
            ledger.apply(record)
            value = json.dumps({"custom_id": f"c{record.line}"}).encode() + b"\n" if record.kind == "line" else b""
            builder.add(record, value)
        segment = builder.build(start + 3)
        key = await chain.append(segment)
        for entry in segment.entries:
            if entry.kind in ("completed", "failed"):
                index.add(key, entry)
    return ClosedShard(ledger.shards["batch_1", 0], index, 50)


def custom_ids(store: MemoryObjectStore, kind: str) -> list[str]:
    content = store.objects.get(file_key(result_file_id("batch_1", kind)), b"")
    return [json.loads(line)["custom_id"] for line in content.splitlines()]


async def run(store: MemoryObjectStore, batch: ClosedShard) -> BatchClosed:
    result = await finalizer(store).finalize(batch)
    assert result is not None
    return result


async def test_files_are_in_input_order() -> None:
    store = MemoryObjectStore()

    result = await run(store, await closed_batch(store, [6, 1, 0, 5, 2, 4, 3], 7))

    assert custom_ids(store, "output") == ["c0", "c2", "c4", "c6"]
    assert custom_ids(store, "error") == ["c1", "c3", "c5"]
    closed = result
    assert (closed.status, closed.completed, closed.failed, closed.not_run) == ("completed", 4, 3, 0)
    assert closed.usage == Usage(7, 7)
    assert [file.filename for file in result.files] == ["batch_1_output.jsonl", "batch_1_error.jsonl"]
    assert all(file.bytes == len(store.objects[file.object_key]) for file in result.files)


@pytest.mark.parametrize(("end", "status"), [("cancel", "cancelled"), ("deadline", "expired")])
async def test_lines_that_never_ran_say_why_between_the_others(end: str, status: str) -> None:
    store = MemoryObjectStore()

    result = await run(store, await closed_batch(store, [3, 0], 5, end))

    assert custom_ids(store, "output") == ["c0"]
    assert custom_ids(store, "error") == ["c1", "c2", "c3", "c4"]
    raw = store.objects[file_key(result_file_id("batch_1", "error"))].splitlines()
    assert json.loads(raw[0])["error"]["code"] == f"batch_{status}"
    assert (result.status, result.not_run, result.failed) == (status, 3, 1)


async def test_file_without_lines_is_not_made() -> None:
    store = MemoryObjectStore()

    result = await run(store, await closed_batch(store, [], 0, "cancel"))

    assert result.output_file_id is None
    assert result.error_file_id is None
    assert result.files == ()


async def test_repeating_changes_nothing_and_the_first_final_record_wins() -> None:
    store = MemoryObjectStore()
    batch = await closed_batch(store, [0, 1], 2)
    first = await run(store, batch)
    objects = dict(store.objects)

    again = await run(store, batch)

    assert again == first
    assert store.objects == objects


async def test_crash_after_any_write_is_mended_by_the_next_try() -> None:
    class Crash(Exception):
        pass

    class CrashingStore(MemoryObjectStore):
        writes_left = 99

        async def create(self, key: str, data: Any) -> None:
            if self.writes_left == 0:
                raise Crash
            self.writes_left -= 1
            await super().create(key, data)

    for writes in range(4):
        store = CrashingStore()
        batch = await closed_batch(store, [1, 0, 2], 3)
        store.writes_left = writes
        try:
            await run(store, batch)
        except Crash:
            store.writes_left = 99
            await run(store, batch)
        assert custom_ids(store, "output") == ["c0", "c2"]
        assert final_key("batch_1") in store.objects


async def test_batch_that_was_never_created_is_left_in_the_spool() -> None:
    store = MemoryObjectStore()
    batch = await closed_batch(store, [0], 1)
    del store.objects[manifest_key("batch_1")]

    assert await finalizer(store).finalize(batch) is None
