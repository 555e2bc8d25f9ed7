"""The simulated cluster: topics, the producer, readers and committed offsets."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiokafka import TopicPartition
from aiokafka.errors import RequestTimedOutError
from aiokafka.structs import OffsetAndMetadata, RecordMetadata

from shared.errors import UnavailableError
from shared.log_reader import LogTruncated
from shared.topics import Topics
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.group_consumer import GroupConsumer


# Key, value, headers.
BatchRecord = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the simulated log, as the client shows it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp: int = 0


@dataclass
class Group:
    """A consumer group: members by session, eager assignment, commits fenced by generation."""

    committed: dict[TopicPartition, OffsetAndMetadata] = field(default_factory=dict)
    members: dict[int, "GroupConsumer"] = field(default_factory=dict)
    generation: int = 0


class Log:
    """All topics of one simulated cluster."""

    def __init__(self, topics: Topics, models: tuple[str, ...], log_id: str) -> None:
        self.log_id = log_id
        self.partitions = {topic.name: topic.partitions for topic in topics.all_for(models)}
        self.records: dict[TopicPartition, list[Record]] = defaultdict(list)
        self.groups: dict[str, Group] = defaultdict(Group)
        self._waiters: dict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self.on_append: Callable[[Record], None] = lambda _record: None
        self.on_commit: Callable[[TopicPartition, int], None] = lambda _tp, _offset: None

    def append(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> RecordMetadata:
        """Append one record."""
        tp = TopicPartition(topic, partition)
        log = self.records[tp]
        log.append(Record(topic, partition, len(log), key, value, tuple(headers), int(time.time() * 1000)))
        self.on_append(log[-1])
        self.wake(topic)
        return RecordMetadata(topic, partition, tp, len(log) - 1, 0, 0, 0)

    def append_all(self, topic: str, partition: int, records: Sequence[BatchRecord]) -> RecordMetadata:
        """Append the records of a batch; metadata of the first."""
        written = [self.append(topic, partition, *record) for record in records]
        return written[0]

    def wake(self, topic: str) -> None:
        """Let everybody who waits for a topic look again."""
        for waiter in self._waiters.pop(topic, ()):
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, timeout_s: float, topics: Iterable[str]) -> None:
        """Until one of the topics grew, or the time is over."""
        waiter = asyncio.get_running_loop().create_future()
        for topic in topics:
            self._waiters[topic].append(waiter)
        handle = asyncio.get_running_loop().call_later(timeout_s, _finish, waiter)
        try:
            await waiter
        finally:
            handle.cancel()

    def read(self, tp: TopicPartition, start: int, maximum: int) -> list[Record]:
        """Records from an offset on."""
        return self.records[tp][start : start + maximum]

    def end(self, tp: TopicPartition) -> int:
        """One past the last record."""
        return len(self.records[tp])


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Batch:
    """The client's batch, which is never full."""

    def __init__(self) -> None:
        self.records: list[BatchRecord] = []

    def append(
        self,
        *,
        timestamp: None,  # noqa: ARG002 - the client's signature
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> object:
        self.records.append((key, value, headers))
        return self

    def close(self) -> None:
        """Nothing is added after this anyway."""


class Producer:
    """The client's producer: one future per record."""

    def __init__(self, log: Log, process: Process) -> None:
        self._log, self._process = log, process

    async def send(
        self,
        topic: str,
        *,
        value: bytes | None,
        key: bytes | None,
        partition: int | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> Awaitable[RecordMetadata]:
        return asyncio.ensure_future(self._send(topic, partition or 0, key, value, headers))

    def create_batch(self) -> "Batch":
        return Batch()

    async def send_batch(self, batch: "Batch", topic: str, *, partition: int) -> Awaitable[RecordMetadata]:
        return asyncio.ensure_future(self._send_batch(batch, topic, partition))

    async def _send_batch(self, batch: "Batch", topic: str, partition: int) -> RecordMetadata:
        """All records of a batch or none, as the broker does it; metadata of the first."""
        return await self._process.operate(
            lambda: self._log.append_all(topic, partition, batch.records),
            on_lost=RequestTimedOutError(),
        )

    async def _send(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> RecordMetadata:
        return await self._process.operate(
            lambda: self._log.append(topic, partition, key, value, headers), on_lost=RequestTimedOutError()
        )


class Reader:
    """The port of LogReader."""

    def __init__(self, log: Log, process: Process) -> None:
        self._log, self._process = log, process
        self.positions: dict[TopicPartition, int] = {}

    async def open(self, positions: Mapping[TopicPartition, int | None]) -> None:
        self.positions = {tp: offset or 0 for tp, offset in positions.items()}

    async def close(self) -> None:
        pass

    async def poll(self, *, timeout_ms: int, max_records: int) -> list[Record]:
        for _ in range(2):
            found = await self._process.operate(lambda: self._take(max_records))
            if found:
                return found
            await self._log.wait(timeout_ms / 1000, {tp.topic for tp in self.positions})
        return []

    def _take(self, max_records: int) -> list[Record]:
        found: list[Record] = []
        for tp, position in self.positions.items():
            if position > self._log.end(tp):
                raise LogTruncated(f"{tp}@{position}")
            records = self._log.read(tp, position, self._process.faults.rng.randint(1, max_records))
            self.positions[tp] += len(records)
            found += records
        return found

    async def end_offsets(self) -> dict[TopicPartition, int]:
        return await self._process.operate(lambda: {tp: self._log.end(tp) for tp in self.positions})

    async def beginning_offsets(self) -> dict[TopicPartition, int]:
        return dict.fromkeys(self.positions, 0)

    async def commit_gauge(self, offsets: dict[TopicPartition, int]) -> None:
        for tp, offset in offsets.items():
            assert offset <= self._log.end(tp)


class GroupOffsets:
    """The port of shared.group_offsets."""

    def __init__(self, log: Log, process: Process) -> None:
        self._log, self._process = log, process

    async def committed(self, group: str, _partitions: object) -> dict[TopicPartition, OffsetAndMetadata]:
        return await self._process.operate(
            lambda: dict(self._log.groups[group].committed), on_lost=UnavailableError("coordinator")
        )

    async def close(self) -> None:
        pass


class Ends:
    """The port of shared.log_ends."""

    def __init__(self, log: Log, process: Process, partitions: Iterable[TopicPartition]) -> None:
        self._log, self._process, self._partitions = log, process, list(partitions)

    async def open(self) -> None:
        pass

    async def now(self) -> dict[TopicPartition, int]:
        return await self._process.operate(
            lambda: {tp: self._log.end(tp) for tp in self._partitions}, on_lost=UnavailableError("broker")
        )

    async def begin(self) -> dict[TopicPartition, int]:
        return dict.fromkeys(self._partitions, 0)

    async def close(self) -> None:
        pass
