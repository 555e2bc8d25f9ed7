"""The simulated group consumer, with the habits of the real client."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, RequestTimedOutError
from aiokafka.structs import OffsetAndMetadata

from tests.simulation.log import Log, Record
from tests.simulation.process import SESSION_S, Killed, Process


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
        if tp not in self._positions:
            raise IllegalStateError(f"no current assignment for partition {tp}")
        self._positions[tp] = offset

    async def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)
