"""A member of the dispatchers' group: whatever the group answers, the process goes on and asks again."""

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import InvalidRequestError, KafkaError

from services.ingest import ownership
from services.ingest.ownership import Ownership
from shared.settings import KafkaSettings
from shared.topics import Topics, partition_of

TOPICS = Topics(KafkaSettings())
BATCH_ID = "batch_1"


class Group:
    """Refuses the first join, takes the second one, and breaks under it once."""

    def __init__(self) -> None:
        self.num_joins = 0
        self.left: set[int] = set()
        self.listener: Any = None

    def __call__(self, **_: Any) -> "Group":
        return self

    def subscribe(self, _topics: list[str], listener: Any) -> None:
        self.listener = listener

    async def start(self) -> None:
        self.num_joins += 1
        if self.num_joins == 1:
            raise InvalidRequestError
        mine = TopicPartition(TOPICS.batches.name, partition_of(BATCH_ID, TOPICS.batches.partitions))
        await self.listener.on_partitions_assigned([mine])

    async def getmany(self, **_: Any) -> None:
        if self.num_joins == 2:
            raise KafkaError

    async def stop(self) -> None:
        self.left.add(self.num_joins)


async def test_group_that_refuses_or_breaks_is_joined_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    monkeypatch.setattr(ownership, "AIOKafkaConsumer", group)
    monkeypatch.setattr(ownership, "REJOIN_BACKOFF_S", 0.001)
    monkeypatch.setattr(ownership, "CHECK_INTERVAL_S", 0.001)
    owner = Ownership(KafkaSettings(), TOPICS, None)

    running = asyncio.create_task(owner.run())
    async with asyncio.timeout(5):
        while group.num_joins < 3:
            await asyncio.sleep(0.001)
    assert owner.joined and owner.owns(BATCH_ID)
    assert group.left == {1, 2}, "no membership is left behind"

    running.cancel()
    await asyncio.wait([running])
    await owner.close()
    assert not owner.owns(BATCH_ID)
