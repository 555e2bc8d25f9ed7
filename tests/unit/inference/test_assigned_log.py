"""Commits and rebalances: explicit offsets only, none between revoked and assigned, trackers kept."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError

from services.inference.assigned_log import REBALANCES_MAX, AssignedLog, EndlessRebalance
from shared.settings import KafkaSettings

TP = TopicPartition("t", 0)


class FakeConsumer:
    """Hands out what is queued and notes commits."""

    def __init__(self) -> None:
        self.queue: list[list[int]] = []
        self.commits: list[dict[TopicPartition, int]] = []
        self.refuse = False
        self.stopped = False

    async def getmany(self, **_: Any) -> dict[TopicPartition, list[Any]]:
        offsets = self.queue.pop(0) if self.queue else []
        return {TP: [SimpleNamespace(offset=offset) for offset in offsets]} if offsets else {}

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        if self.refuse:
            raise CommitFailedError
        self.commits.append(offsets)

    async def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def consumer() -> FakeConsumer:
    return FakeConsumer()


@pytest.fixture
async def log(consumer: FakeConsumer) -> AssignedLog:
    assigned = AssignedLog(KafkaSettings(), "t", None)
    assigned._consumer = consumer
    await assigned.on_partitions_assigned([TP])
    return assigned


async def poll(log: AssignedLog) -> list[int]:
    return [record.offset for record in await log.poll(timeout_ms=0, max_records=10)]


async def test_only_contiguous_completions_are_committed(log: AssignedLog, consumer: FakeConsumer) -> None:
    consumer.queue = [[0, 1, 2]]
    assert await poll(log) == [0, 1, 2]

    log.finish(TP, 2)
    await log.commit()
    assert consumer.commits == []
    log.finish(TP, 0)
    await log.commit()
    await log.commit()

    assert consumer.commits == [{TP: 1}]


async def test_nothing_is_committed_between_revoked_and_assigned(log: AssignedLog, consumer: FakeConsumer) -> None:
    consumer.queue = [[0, 1]]
    await poll(log)
    log.finish(TP, 0)

    await log.on_partitions_revoked([TP])
    assert consumer.commits == [{TP: 1}], "the last commit of the epoch"
    log.finish(TP, 1)
    await log.commit()
    assert consumer.commits == [{TP: 1}]
    await log.on_partitions_assigned([TP])
    await log.commit()

    assert consumer.commits == [{TP: 1}, {TP: 2}]


async def test_partition_that_comes_back_is_not_done_twice(log: AssignedLog, consumer: FakeConsumer) -> None:
    consumer.queue = [[0, 1, 2], [0, 1, 2, 3]]
    await poll(log)
    log.finish(TP, 1)
    await log.on_partitions_revoked([TP])
    await log.on_partitions_assigned([TP])

    assert await poll(log) == [3]


async def test_lost_partition_is_normal(log: AssignedLog, consumer: FakeConsumer) -> None:
    consumer.queue = [[0]]
    await poll(log)
    await log.on_partitions_revoked([TP])
    await log.on_partitions_assigned([])

    log.finish(TP, 0)
    await log.commit()

    assert consumer.commits == []


async def test_refused_commit_is_tried_again_later(log: AssignedLog, consumer: FakeConsumer) -> None:
    consumer.queue, consumer.refuse = [[0]], True
    await poll(log)
    log.finish(TP, 0)
    await log.commit()
    consumer.refuse = False

    await log.commit()

    assert consumer.commits == [{TP: 1}]


async def test_failed_poll_throws_the_consumer_away(
    log: AssignedLog, consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**_: Any) -> None:
        raise CommitFailedError

    monkeypatch.setattr(consumer, "getmany", fail)
    monkeypatch.setattr("services.inference.assigned_log.REOPEN_BACKOFF_S", 0)

    assert await poll(log) == []

    assert consumer.stopped
    assert log._consumer is None


async def test_endless_rebalances_end_the_worker(log: AssignedLog) -> None:
    for _ in range(REBALANCES_MAX):
        await log.on_partitions_revoked([TP])
        await log.on_partitions_assigned([TP])

    with pytest.raises(EndlessRebalance, match="WORKER_ID"):
        await poll(log)
