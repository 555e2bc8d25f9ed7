"""Simulated processes, log and store: what can fail does, at every operation, by the seed.

Every operation passes `Process.operate`: there a process may be killed before or after the effect, be frozen for
longer than its session, or get an error although the effect took place. A killed process has no further effect.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, RequestTimedOutError
from aiokafka.structs import OffsetAndMetadata, RecordMetadata

from shared.errors import ObjectExists, ObjectNotFound, UnavailableError
from shared.log_reader import LogTruncated
from shared.topics import Topics

SESSION_S = 10.0
T = TypeVar("T")


class Killed(BaseException):
    """kill -9: nothing after it runs."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the simulated log, as the client shows it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass
class Faults:
    """How likely each fault is at one operation, and how many are left in this run."""

    rng: random.Random
    left: int
    rate: float
    freeze_share: float = 0.05

    def strikes(self, share: float) -> bool:
        """Whether a fault with this share of the rate strikes now."""
        if self.left <= 0 or self.rng.random() >= self.rate * share:
            return False
        self.left -= 1
        return True


class Process:
    """A simulated process: its tasks die together, and its operations fail after that."""

    def __init__(self, name: str, faults: Faults) -> None:
        self.name, self.faults = name, faults
        self.is_dead = False
        self.frozen_until = 0.0
        self.task: asyncio.Task[None] | None = None
        self.at_death: list[Callable[[], None]] = []

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        """Run the process's main coroutine."""
        self.task = asyncio.get_running_loop().create_task(main)

    def kill(self) -> None:
        """kill -9."""
        self.is_dead = True
        if self.task is not None:
            self.task.cancel()
        for tell in self.at_death:
            tell()

    async def operate(self, effect: Callable[[], T], *, on_lost: BaseException | None = None) -> T:
        """Do one I/O operation, with everything that can happen to one. `on_lost`: what a lost answer looks like."""
        await self._breathe()
        faults, rng = self.faults, self.faults.rng
        if faults.strikes(0.3):
            self.kill()
            raise Killed
        if on_lost is not None and faults.strikes(0.25):
            raise on_lost  # it never arrived
        result = effect()
        if faults.strikes(0.15):
            self.kill()
            raise Killed
        if on_lost is not None and faults.strikes(0.25):
            raise on_lost  # it arrived, the answer did not
        if faults.strikes(faults.freeze_share):
            self.frozen_until = asyncio.get_running_loop().time() + rng.choice([1.0, 3 * SESSION_S])
            await self._breathe()
        return result

    async def _breathe(self) -> None:
        loop = asyncio.get_running_loop()
        if self.is_dead:
            raise Killed
        if (wait_s := self.frozen_until - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        elif self.faults.rng.random() < 0.2:
            await asyncio.sleep(self.faults.rng.random() * 0.05)  # reorders what runs at the same time
        else:
            return
        if self.is_dead:
            raise Killed


class Store:
    """Objects of one run; notes every change of one, which is the end of the run."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.overwritten: list[str] = []

    def create(self, key: str, data: bytes) -> None:
        """Create-only."""
        if key in self.objects:
            raise ObjectExists(key)
        self.objects[key] = data

    def of(self, process: Process) -> "StorePort":
        """The store as a process sees it."""
        return StorePort(self, process)


class StorePort:
    """An ObjectStore over `Store` for one process."""

    def __init__(self, store: Store, process: Process) -> None:
        self._store, self._process = store, process

    async def create(self, key: str, data: bytes | BinaryIO) -> None:
        content = data if isinstance(data, bytes) else data.read()
        await self._process.operate(lambda: self._store.create(key, content), on_lost=UnavailableError("store"))

    async def concatenate(self, key: str, parts: Sequence[str]) -> None:
        await self.create(key, b"".join([self._store.objects[part] for part in parts]))

    async def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        def get() -> bytes:
            if key not in self._store.objects:
                raise ObjectNotFound(key)
            return self._store.objects[key][start : None if length is None else start + length]

        return await self._process.operate(get)

    async def stream(self, key: str, start: int = 0) -> AsyncIterator[bytes]:
        yield await self.read(key, start)

    async def size(self, key: str) -> int | None:
        found = self._store.objects.get(key)
        return None if found is None else len(found)

    async def keys(self, prefix: str) -> list[str]:
        return await self._process.operate(lambda: sorted(k for k in self._store.objects if k.startswith(prefix)))

    async def delete(self, key: str) -> None:
        await self._process.operate(lambda: self._store.objects.pop(key, None), on_lost=UnavailableError("store"))

    async def close(self) -> None:
        pass


@dataclass
class Group:
    """A consumer group: members by session, eager assignment, commits fenced by generation."""

    committed: dict[TopicPartition, OffsetAndMetadata] = field(default_factory=dict)
    members: dict[int, "GroupConsumer"] = field(default_factory=dict)
    generation: int = 0
    wanted: asyncio.Event = field(default_factory=asyncio.Event)


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
        log.append(Record(topic, partition, len(log), key, value, tuple(headers)))
        self.on_append(log[-1])
        self.wake(topic)
        return RecordMetadata(topic, partition, tp, len(log) - 1, 0, 0, 0)

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


class GroupConsumer:
    """The client's group consumer, with its habits: eager rebalances in the background, positions lost on an error."""

    _number = 0

    def __init__(self, log: Log, process: Process, group: str) -> None:
        self._log, self._process, self._group = log, process, log.groups[group]
        self._listener: Any = None
        self._topic = ""
        self._positions: dict[TopicPartition, int] = {}
        self._generation = -1
        self._closed = False
        GroupConsumer._number += 1
        self._id = GroupConsumer._number

    def subscribe(self, topics: list[str], listener: Any) -> None:
        self._topic, self._listener = topics[0], listener

    async def start(self) -> None:
        await self._process.operate(lambda: None)
        self._group.members[self._id] = self
        self._process.at_death.append(self._die)
        await self._rebalance()

    async def stop(self) -> None:
        self._closed = True
        if not self._process.is_dead and self._id in self._group.members:
            del self._group.members[self._id]
            self._schedule_rebalance()

    def _die(self) -> None:
        asyncio.get_running_loop().call_later(SESSION_S, self._expire)

    def _expire(self) -> None:
        if self._id in self._group.members:
            del self._group.members[self._id]
            self._schedule_rebalance()

    def _schedule_rebalance(self) -> None:
        members = [m for m in self._group.members.values() if not m._process.is_dead]
        if members:
            asyncio.get_running_loop().create_task(members[0]._rebalance())

    async def _rebalance(self) -> None:
        """Everybody lets go, then everybody gets a share; a frozen member misses it."""
        group, now = self._group, asyncio.get_running_loop().time()
        members = [m for m in group.members.values() if not m._process.is_dead and m._process.frozen_until <= now]
        for member in members:
            if member._generation == group.generation and member._positions:
                await member._tell(member._listener.on_partitions_revoked(list(member._positions)))
        group.generation += 1
        generation = group.generation
        partitions = [TopicPartition(self._topic, n) for n in range(self._log.partitions[self._topic])]
        for number, member in enumerate(members):
            mine = [tp for index, tp in enumerate(partitions) if index % len(members) == number]
            member._generation = generation
            member._positions = {tp: self._start_of(tp) for tp in mine}
            # Records may be handed out before this callback has run (rule 3).
            await asyncio.sleep(self._process.faults.rng.choice([0.0, 0.0, 0.3]))
            if member._generation == generation:
                await member._tell(member._listener.on_partitions_assigned(mine))
        self._log.wake(self._topic)

    async def _tell(self, callback: Coroutine[Any, Any, None]) -> None:
        try:
            await callback
        except Killed:
            return

    def _start_of(self, tp: TopicPartition) -> int:
        committed = self._group.committed.get(tp)
        return committed.offset if committed else 0

    async def getmany(
        self, *tps: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[Record]]:
        for _ in range(2):
            if self._process.faults.strikes(0.2):
                self._take(tps, max_records)  # drained and gone (rule 1)
                raise RequestTimedOutError
            if self._generation != self._group.generation and not self._closed:
                self._group.members[self._id] = self  # it was away for longer than its session
                await self._rebalance()
            found = await self._process.operate(lambda: self._take(tps, max_records))
            if found:
                return found
            await self._log.wait(timeout_ms / 1000, (self._topic,))
        return {}

    def _take(self, tps: Sequence[TopicPartition], maximum: int) -> dict[TopicPartition, list[Record]]:
        found = {}
        for tp in list(self._positions):
            if (tps and tp not in tps) or maximum <= 0:
                continue
            records = self._log.read(tp, self._positions[tp], min(maximum, self._process.faults.rng.randint(1, 4)))
            if records:
                found[tp] = records
                self._positions[tp] += len(records)
                maximum -= len(records)
        return found

    async def commit(self, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        def write() -> None:
            if self._generation != self._group.generation or not set(offsets) <= set(self._positions):
                raise CommitFailedError
            for tp, (offset, metadata) in offsets.items():
                self._log.on_commit(tp, offset)
                self._group.committed[tp] = OffsetAndMetadata(offset, metadata)

        await self._process.operate(write, on_lost=RequestTimedOutError())

    def assignment(self) -> set[TopicPartition]:
        return set(self._positions)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._positions[tp] = offset

    async def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)
