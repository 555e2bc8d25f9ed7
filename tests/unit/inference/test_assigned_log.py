"""Commits and rebalances: explicit offsets only, none between revoked and assigned, trackers kept."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, InvalidRequestError
from aiokafka.structs import OffsetAndMetadata

from services.inference import assigned_log
from services.inference.assigned_log import REBALANCES_MAX, SPAN_MAX, AssignedLog, EndlessRebalance
from shared.partition_note import PartitionNote, decode_note, encode_note, finished_offsets
from shared.settings import KafkaSettings

TP = TopicPartition("t", 0)


class FakeConsumer:
    """Hands out what is queued and notes commits."""

    def __init__(self) -> None:
        self.queue: list[list[int]] = []
        self.commits: list[int] = []
        self.notes: list[PartitionNote] = []
        self.seeks: list[int] = []
        self.refuse = False
        self.stopped = False
        self.partitions = {TP}
        self.begin = 0

    async def getmany(self, *_: Any, **__: Any) -> dict[TopicPartition, list[Any]]:
        offsets = self.queue.pop(0) if self.queue else []
        records = [SimpleNamespace(topic="t", partition=0, offset=offset) for offset in offsets]
        return {TP: records} if records else {}

    async def commit(self, offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        if self.refuse:
            raise CommitFailedError
        offset, text = offsets[TP]
        note = decode_note(text)
        assert note is not None
        self.commits.append(offset)
        self.notes.append(note)

    async def committed(self, _group: str, _partitions: Any) -> dict[TopicPartition, OffsetAndMetadata]:
        """As GroupOffsets."""
        return {TP: OffsetAndMetadata(self.commits[-1], encode_note(self.notes[-1]))} if self.commits else {}

    def assignment(self) -> set[TopicPartition]:
        return self.partitions

    async def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, self.begin)

    def seek(self, _tp: TopicPartition, offset: int) -> None:
        self.seeks.append(offset)

    def subscribe(self, _topics: list[str], listener: AssignedLog) -> None:
        self.listener = listener

    async def start(self) -> None:
        await self.listener.on_partitions_assigned([TP])

    async def stop(self) -> None:
        self.stopped = True


class RefusingConsumer(FakeConsumer):
    """Whose group answers what the client does not expect."""

    async def start(self) -> None:
        raise InvalidRequestError


@pytest.fixture
def consumer() -> FakeConsumer:
    return FakeConsumer()


@pytest.fixture
async def log(consumer: FakeConsumer) -> AssignedLog:
    assigned = AssignedLog(
        settings=KafkaSettings(),
        topic="t",
        new_consumer=lambda: consumer,
        group_offsets=consumer,  # type: ignore[arg-type]
        num_held_max=8,
    )
    assigned._consumer = consumer
    await assigned.on_partitions_assigned([TP])
    return assigned


async def poll(log: AssignedLog) -> list[int]:
    return [record.offset for record in await log.poll(timeout_ms=0, max_records=10)]


async def test_only_contiguous_completions_are_committed(log: AssignedLog, consumer: FakeConsumer) -> None:
    consumer.queue = [[0, 1, 2]]
    assert await poll(log) == [0, 1, 2]
    assert consumer.commits == [0], "where the group starts"

    log.finish(TP, 2)
    await log.commit()
    assert finished_offsets(consumer.notes[-1].finished, 0) == {2}
    log.finish(TP, 0)
    await log.commit()
    await log.commit()

    assert consumer.commits == [0, 0, 1], "the same is not written twice"


async def test_nothing_is_committed_between_revoked_and_assigned(log: AssignedLog, consumer: FakeConsumer) -> None:
    consumer.queue = [[0, 1], [0, 1]]
    await poll(log)
    log.finish(TP, 0)

    await log.on_partitions_revoked([TP])
    assert consumer.commits == [0, 1], "the last commit of the epoch"
    assert not consumer.notes[-1].held, "let go of"
    log.finish(TP, 1)
    await log.commit()
    assert consumer.commits == [0, 1]
    await log.on_partitions_assigned([TP])
    await poll(log)

    assert consumer.commits == [0, 1, 2]


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
    consumer.partitions = set()

    log.finish(TP, 0)
    await log.commit()

    assert consumer.commits == [0, 0], "taken and let go of"


async def test_refused_commit_is_tried_again_later(log: AssignedLog, consumer: FakeConsumer) -> None:
    consumer.queue, consumer.refuse = [[0]], True
    await poll(log)
    log.finish(TP, 0)
    await log.commit()
    consumer.refuse = False

    await log.commit()

    assert consumer.commits == [1]


async def test_epoch_that_ends_while_it_begins_hands_out_nothing(
    log: AssignedLog, consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 3: records that came before a rebalance come again after it, and must not count as delivered."""
    committed = consumer.committed

    async def rebalance_meanwhile(group: str, partitions: Any) -> dict[TopicPartition, OffsetAndMetadata]:
        await log.on_partitions_revoked([TP])
        await log.on_partitions_assigned([TP])
        return await committed(group, partitions)

    monkeypatch.setattr(consumer, "committed", rebalance_meanwhile)
    consumer.queue = [[0, 1], [0, 1]]
    assert await poll(log) == []
    monkeypatch.setattr(consumer, "committed", committed)

    assert await poll(log) == [0, 1]


async def test_gap_at_the_start_of_an_epoch_is_read_again_and_then_believed(
    log: AssignedLog, consumer: FakeConsumer
) -> None:
    consumer.queue = [[5, 6], [5, 6], [7]]

    assert await poll(log) == []
    assert consumer.seeks == [0]
    assert await poll(log) == [5, 6]
    assert await poll(log) == [7]
    assert consumer.seeks == [0]


async def test_gap_that_was_none_is_looked_for_again_in_the_next_epoch(
    log: AssignedLog, consumer: FakeConsumer
) -> None:
    """Records passed over at one assignment say nothing about the next, which begins at the same offset."""
    consumer.queue = [[3], [0, 1, 2, 3]]
    assert await poll(log) == []
    assert await poll(log) == [0, 1, 2, 3]
    await log.on_partitions_revoked([TP])
    await log.on_partitions_assigned([])
    await log.on_partitions_revoked([])
    await log.on_partitions_assigned([TP])
    consumer.queue = [[5], [0, 1, 2, 3, 4, 5]]

    assert await poll(log) == []
    assert await poll(log) == [0, 1, 2, 3, 4, 5]
    assert consumer.seeks == [0, 0]


async def test_gap_in_a_partition_that_went_meanwhile_is_left_to_its_owner(
    log: AssignedLog, consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer.queue = [[0]]
    await poll(log)
    await log.on_partitions_revoked([TP])
    committed = consumer.committed

    async def went_meanwhile(group: str, partitions: Any) -> dict[TopicPartition, OffsetAndMetadata]:
        consumer.partitions = set()
        return await committed(group, partitions)

    monkeypatch.setattr(consumer, "committed", went_meanwhile)
    consumer.queue = [[5]]

    assert await poll(log) == []
    assert consumer.seeks == []


async def test_long_span_behind_a_slow_record_is_not_extended(log: AssignedLog, consumer: FakeConsumer) -> None:
    consumer.queue = [list(range(SPAN_MAX + 2)), [SPAN_MAX + 2]]
    await poll(log)
    for offset in range(1, SPAN_MAX + 2):
        log.finish(TP, offset)

    assert await poll(log) == []
    log.finish(TP, 0)
    assert await poll(log) == [SPAN_MAX + 2]


async def test_suspects_are_named_before_they_run(log: AssignedLog, consumer: FakeConsumer) -> None:
    dead_owner = PartitionNote(held=True, deaths=1, handed_out_to=2)
    consumer.commits, consumer.notes, consumer.queue = [0], [dead_owner], [[0, 1]]

    records = await log.poll(timeout_ms=0, max_records=10)
    assert log.num_suspects == 2
    await log.begin_trial(records[:1])

    assert list(consumer.notes[-1].trial) == [0]
    assert consumer.notes[-1].is_alone
    log.finish(TP, 0)
    await log.end_trial()
    assert list(consumer.notes[-1].trial) == []
    assert consumer.commits[-1] == 1


async def test_failed_poll_throws_the_consumer_away(
    log: AssignedLog, consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise CommitFailedError

    monkeypatch.setattr(consumer, "getmany", fail)
    monkeypatch.setattr("services.inference.assigned_log.REOPEN_BACKOFF_S", 0)

    assert await poll(log) == []

    assert consumer.stopped
    assert log._consumer is None


async def test_worker_that_lost_its_partitions_for_a_while_did_not_die(
    log: AssignedLog, consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.inference.assigned_log.REOPEN_BACKOFF_S", 0.0)
    consumer.queue = [[0, 1]]
    assert await poll(log) == [0, 1]
    for deaths in (0, 1):
        await log._leave_behind()
        if deaths:  # meanwhile somebody else had it and wrote a word, and died
            consumer.notes[-1] = PartitionNote(held=True, handed_out_to=3)
        log._consumer = consumer
        await log.on_partitions_assigned([TP])
        consumer.queue = [[2 + deaths]]
        await poll(log)
        assert consumer.notes[-1].deaths == deaths
        assert log.was_with_a_dead_worker(TP, 2) is bool(deaths)


async def test_endless_rebalances_end_the_worker(log: AssignedLog) -> None:
    for _ in range(REBALANCES_MAX):
        await log.on_partitions_revoked([TP])
        await log.on_partitions_assigned([TP])

    with pytest.raises(EndlessRebalance, match="WORKER_ID"):
        await poll(log)


async def test_group_that_refuses_the_first_join_is_joined_later(
    consumer: FakeConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assigned_log, "REOPEN_BACKOFF_S", 0.0)
    refusing = RefusingConsumer()
    consumers = iter([refusing, consumer])
    consumer.queue = [[0]]
    assigned = AssignedLog(
        settings=KafkaSettings(),
        topic="t",
        new_consumer=lambda: next(consumers),
        group_offsets=consumer,  # type: ignore[arg-type]
        num_held_max=8,
    )

    assert await poll(assigned) == []
    assert refusing.stopped and not assigned.joined
    assert await poll(assigned) == [0]
