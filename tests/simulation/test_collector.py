"""The real collector code under crashes at every store operation, lost answers, zombies and repeated completions.

One partition of a log, one object store, up to two collectors at once. A run is a function of its seed; a failure
prints the seed, and `pytest tests/simulation -k "[SEED]"` runs it again.
"""

import asyncio
import json
import random
from typing import Any, BinaryIO

import pytest
from aiokafka import TopicPartition

from services.collector.collector import PartitionCollector
from services.collector.finalizer import Finalizer
from services.collector.segment_chain import SegmentChain
from services.collector.settings import CollectorBlock
from shared import identifiers
from shared.errors import UnavailableError
from shared.kafka import OutgoingRecord
from shared.lifecycle import Stop, StopReason
from shared.messages import (
    BatchClosed,
    BatchCreated,
    CompletionHeaders,
    Usage,
    completion_headers,
    decode_facet,
    encode,
)
from shared.object_store import file_key, manifest_key
from shared.settings import KafkaSettings, TelemetrySettings
from shared.telemetry import Telemetry
from shared.topics import Topics
from tests.fakes import MemoryObjectStore

SEEDS = range(400)
TOPICS = Topics(KafkaSettings())
TP = TopicPartition(TOPICS.completions.name, 0)


class Killed(BaseException):
    """kill -9: nothing after it runs."""


class FaultyStore(MemoryObjectStore):
    """Kills its caller, or applies a write and loses the answer, at random operations."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.faults_left = rng.randint(0, 8)
        self.rewrites = 0

    def _maybe(self, fault: type[BaseException]) -> None:
        if self.faults_left and self._rng.random() < 0.15:
            self.faults_left -= 1
            raise fault

    async def create(self, key: str, data: bytes | BinaryIO) -> None:
        self._maybe(Killed)
        await asyncio.sleep(0)
        await super().create(key, data)
        self._maybe(Killed)
        self._maybe(UnavailableError)

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._maybe(UnavailableError)
        await asyncio.sleep(0)
        return await super().read(key, start, length)


class Record:
    """A record of the simulated log."""

    def __init__(self, offset: int, headers: CompletionHeaders, value: bytes | None) -> None:
        self.topic, self.partition, self.offset, self.key = TP.topic, TP.partition, offset, None
        self.headers, self.value = completion_headers(headers), value
        self.parsed = headers


class World:
    """Batches, the log that grows while collectors run, and what they published."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store = FaultyStore(self.rng)
        self.sizes = {f"batch_{n}": self.rng.randint(1, 12) for n in range(self.rng.randint(1, 4))}
        self.log: list[Record] = []
        self.pending = self._completions()
        self.published: list[OutgoingRecord] = []
        for batch_id, size in self.sizes.items():
            lines = [{"custom_id": str(n), "method": "POST", "url": "u", "body": {}} for n in range(size)]
            self.store.objects[file_key(f"in-{batch_id}")] = "\n".join(map(json.dumps, lines)).encode()
            manifest = BatchCreated(
                id=batch_id,
                endpoint="e",
                input_file_id=f"in-{batch_id}",
                completion_window="24h",
                created_at=1,
                expires_at=2,
            )
            self.store.objects[manifest_key(batch_id)] = encode(manifest)

    def _completions(self) -> list[tuple[CompletionHeaders, bytes | None]]:
        """Every line at least once, some again with another payload, some batches cancelled: in any order."""
        lines = [(batch, n) for batch, size in self.sizes.items() for n in range(size)]
        lines += [line for line in lines if self.rng.random() < 0.4]
        found: list[tuple[CompletionHeaders, bytes | None]] = []
        for copy, (batch, n) in enumerate(lines):
            ok = self.rng.random() < 0.8
            headers = CompletionHeaders(
                kind="line", batch_id=batch, line=n, total=self.sizes[batch], succeeded=ok, usage=Usage(1, 1)
            )
            found.append((headers, json.dumps({"custom_id": str(n), "copy": copy}).encode() + b"\n"))
        for batch in self.sizes:
            if self.rng.random() < 0.3:
                kind = self.rng.choice(["cancel", "deadline"])
                found.append((CompletionHeaders(kind=kind, batch_id=batch, total=self.sizes[batch]), None))
        self.rng.shuffle(found)
        return found

    def grow(self) -> None:
        """Append a few completions."""
        for _ in range(self.rng.randint(0, 4)):
            if self.pending:
                headers, value = self.pending.pop()
                self.log.append(Record(len(self.log), headers, value))


class Reader:
    """The port of LogReader over the simulated log."""

    def __init__(self, world: World, stop: Stop) -> None:
        self._world, self._stop = world, stop
        self.positions: dict[TopicPartition, int] = {}

    async def open(self, positions: dict[TopicPartition, int | None]) -> None:
        self.positions = {TP: positions[TP] or 0}

    async def close(self) -> None:
        pass

    async def poll(self, **_: Any) -> list[Record]:
        await asyncio.sleep(0)
        self._world.grow()
        at = self.positions[TP]
        records = self._world.log[at : at + self._world.rng.randint(1, 5)]
        self.positions[TP] += len(records)
        if not records and not self._world.pending:
            self._stop.request(StopReason.SHUTDOWN)
        return records

    async def end_offsets(self) -> dict[TopicPartition, int]:
        return {TP: len(self._world.log)}

    async def beginning_offsets(self) -> dict[TopicPartition, int]:
        return {TP: 0}

    async def commit_gauge(self, offsets: dict[TopicPartition, int]) -> None:
        assert offsets[TP] <= len(self._world.log)


class Publisher:
    """Keeps what collectors tell the world."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def send_all(self, records: list[OutgoingRecord]) -> None:
        await asyncio.sleep(0)
        self._world.published += records

    async def send(self, record: OutgoingRecord) -> None:
        await self.send_all([record])


async def live_once(world: World, published: set[str] | None = None) -> None:
    """One life of a collector process, until it is killed or has nothing left to do.

    `published` is what the process remembers; sharing it makes two lives sessions of one process.
    """
    stop = Stop()
    settings = CollectorBlock(segment_bytes=world.rng.choice([1, 60, 200]), segment_age_s=1000)
    telemetry = Telemetry("simulation", TelemetrySettings())
    collector = PartitionCollector(
        partition=0,
        topics=TOPICS,
        settings=settings,
        chain=SegmentChain(world.store, "log", TP.topic, 0),
        new_reader=lambda: Reader(world, stop),  # type: ignore[arg-type,return-value]
        publisher=Publisher(world),  # type: ignore[arg-type]
        finalizer=Finalizer(world.store, None, 3600, telemetry),
        finalize_slots=asyncio.Semaphore(2),
        published=set() if published is None else published,
        telemetry=telemetry,
    )
    try:
        await collector.run(stop)
    except* Killed:
        pass


def assert_invariants(world: World) -> None:
    """V1, V2, V3 and V5 of the design, from the store and the log alone."""
    winners: dict[str, dict[int, Record]] = {batch: {} for batch in world.sizes}
    ends: dict[str, str] = {}
    for record in world.log:
        batch, lines = record.parsed.batch_id, winners[record.parsed.batch_id]
        if batch in ends:
            continue
        if record.parsed.kind != "line":
            ends[batch] = {"cancel": "cancelled", "deadline": "expired"}[record.parsed.kind]
            continue
        lines.setdefault(record.parsed.line, record)
        if len(lines) == world.sizes[batch]:
            ends[batch] = "completed"
    closed: dict[str, set[BatchClosed]] = {}
    for told in world.published:
        key = (told.key or b"").decode()
        if key.endswith("/closed"):
            facet = decode_facet(told.value or b"")
            assert isinstance(facet, BatchClosed)
            closed.setdefault(key.removesuffix("/closed"), set()).add(facet)
    for batch, size in world.sizes.items():
        assert len(closed.get(batch, ())) == 1, f"{batch}: not closed, or closed in two ways"
        (facet,) = closed[batch]
        assert facet.status == ends[batch]
        output = world.store.objects.get(file_key(identifiers.result_file_id(batch, "output")), b"").splitlines(True)
        errors = world.store.objects.get(file_key(identifiers.result_file_id(batch, "error")), b"").splitlines(True)
        ids = [json.loads(line)["custom_id"] for line in output + errors]
        assert sorted(ids, key=int) == [str(n) for n in range(size)], "lost or doubled"
        won = winners[batch]
        assert output == [won[n].value for n in sorted(won) if won[n].parsed.succeeded], "another payload won"
        assert [line for line in errors if b"copy" in line] == [
            won[n].value for n in sorted(won) if not won[n].parsed.succeeded
        ]
        assert (facet.completed, facet.failed, facet.not_run) == (
            len(output),
            len(won) - len(output),
            size - len(won),
        )


@pytest.mark.parametrize("seed", SEEDS)
async def test_every_line_ends_once_whatever_dies(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.collector.collector.RECOVER_BACKOFF_S", 0.0)
    monkeypatch.setattr("services.collector.collector.FINALISE_BACKOFF_S", 0.0)
    world = World(seed)
    lives = 0
    while lives < 60:
        lives += 1
        rivals = [live_once(world)] + ([live_once(world)] if world.rng.random() < 0.3 else [])
        await asyncio.gather(*rivals)
        if not world.pending and world.store.faults_left == 0:
            break
    world.store.faults_left = 0
    await live_once(world)

    assert_invariants(world)


@pytest.mark.parametrize("rule", ["create_only", "dedupe"])
async def test_the_checker_notices_when_a_rule_is_removed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite that cannot fail proves nothing: without the rule some seed must break an invariant."""
    monkeypatch.setattr("services.collector.collector.RECOVER_BACKOFF_S", 0.0)
    monkeypatch.setattr("services.collector.collector.FINALISE_BACKOFF_S", 0.0)
    if rule == "create_only":

        async def overwrite(self: FaultyStore, key: str, data: bytes | BinaryIO) -> None:
            self._maybe(Killed)
            await asyncio.sleep(0)
            self.objects[key] = data if isinstance(data, bytes) else data.read()

        monkeypatch.setattr(FaultyStore, "create", overwrite)
    else:
        monkeypatch.setattr("services.collector.ledger.Shard.has", lambda _self, _line: False)
    broken = 0
    for seed in range(120):
        world = World(seed)
        try:
            for _ in range(10):
                await asyncio.gather(live_once(world), live_once(world))
            world.store.faults_left = 0
            async with asyncio.timeout(5):
                await live_once(world)
            assert_invariants(world)
        except Exception:
            broken += 1
    assert broken > 0


async def test_foreign_completions_harm_neither_recovery_nor_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of batches that nobody created, with numbers beyond any batch, and values that are no line."""
    monkeypatch.setattr("services.collector.collector.RECOVER_BACKOFF_S", 0.0)
    world = World(1)
    world.store.faults_left = 0
    strange = [
        CompletionHeaders(kind="line", batch_id="stranger", line=4_000_000_000, total=4_100_000_000, succeeded=True),
        CompletionHeaders(kind="line", batch_id="stranger", line=60_000, total=70_000, succeeded=True),
        CompletionHeaders(kind="cancel", batch_id="nobody", total=9),
    ]
    world.pending += [(headers, b"{}\n") for headers in strange]
    line = CompletionHeaders(kind="line", batch_id="batch_0", line=0, total=world.sizes["batch_0"], succeeded=True)
    world.pending += [(line, None), (line, b"two\nlines\n"), (line, b"no end")]

    await live_once(world)
    await live_once(world)

    parked = [record for record in world.published if record.topic == TOPICS.dlq.name]
    assert len(parked) >= 3
    world.log = [record for record in world.log if is_ours(record)]
    assert_invariants(world)


def is_ours(record: Record) -> bool:
    value = record.value or b""
    return record.parsed.batch_id in ("batch_0", "batch_1", "batch_2", "batch_3") and (
        record.parsed.kind != "line" or (value.count(b"\n") == 1 and value.endswith(b"\n"))
    )


@pytest.mark.parametrize("seed", range(30))
async def test_a_close_that_could_not_be_told_is_told_later(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.collector.collector.RECOVER_BACKOFF_S", 0.0)
    world = World(seed)
    world.store.faults_left = 0
    send, failures = Publisher.send, [UnavailableError("kafka is away")] * 3

    async def sometimes(self: Publisher, record: OutgoingRecord) -> None:
        if failures and (record.key or b"").endswith(b"/closed"):
            raise failures.pop()
        await send(self, record)

    monkeypatch.setattr(Publisher, "send", sometimes)
    remembered: set[str] = set()
    for _ in range(5):
        await live_once(world, remembered)

    assert_invariants(world)
