"""Batches of several shards: each shard leaves its files and a record, shard 0 waits for all and joins."""

import asyncio

import msgspec
import pytest

from services.collector import finalizer as module
from services.collector.finalizer import ClosedShard, Finalizer, batch_status
from services.collector.ledger import CANCELLED, COMPLETED, Ledger
from services.collector.result_files import LineIndex
from services.collector.segment_chain import SegmentChain
from shared.identifiers import result_file_id
from shared.messages import BatchClosed, BatchCreated, Usage, encode
from shared.object_store import file_key, final_key, manifest_key, shard_key
from shared.record_headers import CompletionHeaders
from shared.settings import TelemetrySettings
from shared.telemetry import Telemetry
from shared.topics import SHARD_LINES, num_shards
from tests.fakes import MemoryObjectStore

TOTAL = SHARD_LINES + 3
MANIFEST = BatchCreated(id="big", endpoint="e", input_file_id="in", completion_window="24h", created_at=1, expires_at=2)


async def close_shard(store: MemoryObjectStore, number: int, end: str | None = None) -> ClosedShard:
    """A shard with all its lines, or with its first one and an end record."""
    store.objects[manifest_key("big")] = encode(MANIFEST)
    store.objects[file_key("in")] = b"".join(
        b'{"custom_id": "c%d", "method": "POST", "url": "u", "body": {}}\n' % n for n in range(TOTAL)
    )
    ledger, chain = Ledger(), SegmentChain(store, "log", "completions", number)
    chain.start_at(0)
    first, builder = number * SHARD_LINES, chain.builder()
    lines = range(first, first + 1) if end else range(first, min(TOTAL, first + SHARD_LINES))
    records = [
        CompletionHeaders(kind="line", batch_id="big", line=n, total=TOTAL, succeeded=True, usage=Usage(1, 1))
        for n in lines
    ]
    records += [CompletionHeaders(kind=end, batch_id="big", shard=number, total=TOTAL)] if end else []
    for record in records:
        ledger.apply(record)
        builder.add(record, b'{"custom_id": "c%d"}\n' % record.line if record.kind == "line" else b"")
    segment = builder.build(len(records))
    key = await chain.append(segment)
    shard = ledger.shards["big", number]
    index = LineIndex()
    for entry in segment.entries:
        if entry.is_line:
            index.add(key, entry)
    return ClosedShard(shard, index, 50 + number)


def finalizer(store: MemoryObjectStore) -> Finalizer:
    return Finalizer(store, None, 3600, Telemetry("test", TelemetrySettings()), 2)


def lines_of(store: MemoryObjectStore, kind: str) -> list[bytes]:
    return store.objects.get(file_key(result_file_id("big", kind)), b"").splitlines()


async def test_shard_zero_waits_for_the_others_and_joins_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OTHER_SHARDS_POLL_S", 0.001)
    store = MemoryObjectStore()
    first, second = await close_shard(store, 0), await close_shard(store, 1)
    waiting = asyncio.create_task(finalizer(store).finalize(first))
    await asyncio.sleep(0.05)
    assert not waiting.done()

    assert await finalizer(store).finalize(second) is None, "the end is told by shard 0"
    final = await waiting

    assert final is not None
    assert (final.status, final.total, final.completed, final.failed, final.not_run) == (
        "completed",
        TOTAL,
        TOTAL,
        0,
        0,
    )
    assert final.usage == Usage(TOTAL, TOTAL)
    assert final.finalizing_at == 51
    assert lines_of(store, "output") == [b'{"custom_id": "c%d"}' % n for n in range(TOTAL)]
    assert lines_of(store, "error") == []
    again = await finalizer(store).finalize(await close_again(first))
    assert again == final


async def close_again(closed: ClosedShard) -> ClosedShard:
    """What a recovery finds: the same shard at another time."""
    return ClosedShard(closed.shard, closed.index, closed.closed_at + 100)


@pytest.mark.parametrize("died_after", ["output", "final.json", "joined"])
async def test_finalising_goes_on_wherever_it_died(died_after: str) -> None:
    store = MemoryObjectStore()
    closed = [await close_shard(store, 0, "cancel"), await close_shard(store, 1)]
    for shard in reversed(closed):
        await finalizer(store).finalize(shard)
    done = dict(store.objects)
    lost = {
        "output": [shard_key("big", 0, "final.json"), final_key("big"), file_key(result_file_id("big", "output"))],
        "final.json": [final_key("big"), file_key(result_file_id("big", "error"))],
        "joined": [final_key("big")],
    }[died_after]
    for key in lost:
        del store.objects[key]

    final = await finalizer(store).finalize(closed[0])

    assert final is not None
    assert (final.status, final.completed, final.not_run) == ("cancelled", 4, SHARD_LINES - 1)
    assert {k: v for k, v in store.objects.items() if k != final_key("big")} == {
        k: v for k, v in done.items() if k != final_key("big")
    }
    known = msgspec.json.decode(done[final_key("big")], type=BatchClosed)
    assert msgspec.structs.replace(final, closed_at=0, files=()) == msgspec.structs.replace(
        known, closed_at=0, files=()
    )


def test_status_of_a_batch_is_that_of_a_shard_that_was_cut_short() -> None:
    assert batch_status({COMPLETED}) == COMPLETED
    assert batch_status({COMPLETED, CANCELLED}) == CANCELLED
    assert num_shards(TOTAL) == 2
