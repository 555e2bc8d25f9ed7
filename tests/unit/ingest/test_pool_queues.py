"""A queue is what lies between the end of a partition and what its group has finished."""

import time
from collections.abc import Collection
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from services.ingest import pool_queues
from services.ingest.pool_queues import PoolQueues
from shared.errors import UnavailableError
from shared.messages import WorkerHeartbeat
from shared.partition_note import PartitionNote, encode_note, finished_bits
from shared.settings import KafkaSettings
from shared.topics import Topics

MODEL = "m"
TOPICS = Topics(KafkaSettings(request_partitions=3))


class Broker:
    """What the broker says: where partitions end and begin, and what was committed with which note."""

    def __init__(self) -> None:
        self.ends = {0: 10, 1: 20, 2: 30}
        self.begins = {0: 0, 1: 0, 2: 26}
        self.committed_offsets: dict[int, OffsetAndMetadata] = {}
        self.num_questions = 0
        self.is_away = False

    def ends_of(self, partitions: Collection[TopicPartition]) -> Any:
        self.topic = next(iter(partitions)).topic
        return self

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def now(self) -> dict[TopicPartition, int]:
        self.num_questions += 1
        if self.is_away:
            raise UnavailableError("broker")
        return {TopicPartition(self.topic, p): end for p, end in self.ends.items()}

    async def begin(self) -> dict[TopicPartition, int]:
        return {TopicPartition(self.topic, p): begin for p, begin in self.begins.items()}

    async def committed(
        self, _group: str, _partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        return {TopicPartition(self.topic, p): found for p, found in self.committed_offsets.items()}


class View:
    """Two workers; the third partition has none."""

    def workers_alive(self, model: str, _now_ms: int, _silence_s: float) -> list[WorkerHeartbeat]:
        return [beat(name, model, partition) for name, partition in (("w0", 0), ("w1", 1))]


def beat(name: str, model: str, partition: int) -> WorkerHeartbeat:
    return WorkerHeartbeat(
        worker_id=name,
        models=(model,),
        endpoints=(),
        engine="e",
        state="ready",
        in_flight=0,
        started_at=0,
        sent_at_ms=0,
        window=40,
        partitions=(partition,),
    )


def make(broker: Broker) -> PoolQueues:
    return PoolQueues(
        topics=TOPICS,
        view=View(),  # type: ignore[arg-type]
        group_offsets=broker,  # type: ignore[arg-type]
        new_ends=broker.ends_of,
        worker_silence_s=10,
    )


async def test_length_is_what_is_not_finished() -> None:
    broker = Broker()
    queues = make(broker)
    note = encode_note(PartitionNote(finished=finished_bits([12, 13, 14, 17], 11)))
    broker.committed_offsets = {0: OffsetAndMetadata(4, ""), 1: OffsetAndMetadata(11, note)}

    await queues.refresh([MODEL])

    # The third has no committed offset: its group begins where the log does.
    assert queues.of(MODEL).lengths == [6, 20 - 11 - 4, 4]
    assert queues.is_bounded(MODEL)
    await queues.close()


async def test_broker_is_asked_at_most_a_few_times_a_second_for_each_model() -> None:
    broker = Broker()
    queues = make(broker)

    for _ in range(5):
        await queues.refresh([MODEL, "other"])

    assert broker.num_questions == 2


async def test_without_an_answer_lines_wait_for_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker()
    queues = make(broker)
    assert not queues.is_bounded(MODEL)
    await queues.refresh([MODEL])
    broker.is_away = True

    monkeypatch.setattr(pool_queues, "MEASURE_INTERVAL_S", 0.0)
    await queues.refresh([MODEL])
    assert queues.is_bounded(MODEL)  # the last answer is young enough

    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + pool_queues.STALE_S)
    assert not queues.is_bounded(MODEL)
