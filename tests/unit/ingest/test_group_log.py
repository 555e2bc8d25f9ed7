"""The group's log: each epoch begins where the group has committed, and only what is done with is committed."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError, RebalanceInProgressError

from services.ingest.admission import group_log
from services.ingest.admission.group_log import GroupLog, Unreadable
from shared.settings import KafkaSettings

TP = TopicPartition("t", 0)


class FakeConsumer:
    """A log of a hundred records, with the client's habit of handing out before anybody has looked."""

    def __init__(self) -> None:
        self.position = 0
        self.commits: list[int] = []
        self.on_poll: list[Any] = []
        self.refuse = self.stopped = False
        self.poison: set[int] = set()

    def subscribe(self, topics: list[str], listener: Any) -> None:
        assert topics == ["t"] and isinstance(listener, GroupLog)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True

    async def getmany(self, *tps: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        assert timeout_ms >= 0 and set(tps) <= {TP}
        for act in self.on_poll:
            await act()
        self.on_poll.clear()
        offsets = range(self.position, min(100, self.position + max_records))
        if self.poison & set(offsets):
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "invalid start byte")
        self.position = offsets.stop
        records = [SimpleNamespace(topic="t", partition=0, offset=offset) for offset in offsets]
        return {TP: records} if records else {}

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        if self.refuse:
            raise CommitFailedError
        self.commits.append(offsets[TP])

    async def committed(self, _tp: TopicPartition) -> int | None:
        return self.commits[-1] if self.commits else None

    async def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 5)

    def assignment(self) -> set[TopicPartition]:
        return {TP}

    def seek(self, _tp: TopicPartition, offset: int) -> None:
        self.position = offset


class Subject:
    """A log with a consumer, and what it was told to take over."""

    def __init__(self) -> None:
        self.consumers: list[FakeConsumer] = []
        self.poison: set[int] = set()
        self.held: dict[TopicPartition, int] = {}
        self.taken_over: list[Mapping[TopicPartition, int]] = []
        self.log = GroupLog(
            settings=KafkaSettings(),
            topics=["t"],
            new_consumer=self._new_consumer,
            take_over=self._take_over,
            held=lambda: self.held,
        )

    def _new_consumer(self) -> FakeConsumer:
        before = self.consumers[-1].commits if self.consumers else []
        self.consumers.append(FakeConsumer())
        self.consumers[-1].commits = list(before)
        self.consumers[-1].poison = self.poison
        return self.consumers[-1]

    async def _take_over(self, positions: Mapping[TopicPartition, int]) -> None:
        self.taken_over.append(positions)

    async def rebalance(self) -> None:
        await self.log.on_partitions_revoked([TP])
        await self.log.on_partitions_assigned([TP])

    async def poll(self) -> list[int]:
        return [record.offset for record in await self.log.poll(timeout_ms=0, max_records=3)]


@pytest.fixture
async def subject(monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setattr(group_log, "REJOIN_BACKOFF_S", 0.0)
    found = Subject()
    assert await found.poll() == [], "nothing is handed out before the group has settled"
    await found.log.on_partitions_assigned([TP])
    return found


async def test_what_is_held_is_not_committed_until_it_is_let_go(subject: Subject) -> None:
    assert await subject.poll() == []
    assert await subject.poll() == [5, 6, 7]
    subject.log.finish()
    subject.held = {TP: 6}
    await subject.log.commit()
    assert subject.consumers[-1].commits == [6]
    await subject.log.commit()
    assert subject.consumers[-1].commits == [6], "nothing new"
    subject.held = {}
    await subject.log.commit()
    assert subject.consumers[-1].commits == [6, 8]


async def test_topic_that_is_left_out_is_not_polled(subject: Subject) -> None:
    assert await subject.poll() == []
    assert await subject.log.poll(timeout_ms=0, max_records=3, without="t") == []
    assert await subject.poll() == [5, 6, 7]


async def test_client_that_gave_up_while_the_group_settles_joins_anew(subject: Subject) -> None:
    async def give_up() -> None:
        raise RebalanceInProgressError

    await subject.log.on_partitions_revoked([TP])
    assert await subject.poll() == []
    subject.consumers[-1].on_poll.append(give_up)
    assert await subject.poll() == []
    assert subject.consumers[-1].stopped
    assert await subject.poll() == []
    assert len(subject.consumers) == 2


async def test_epoch_begins_at_the_first_record_or_where_the_group_has_committed(subject: Subject) -> None:
    assert not subject.log.joined
    assert await subject.poll() == [], "what came before the epoch was begun is thrown away"
    assert subject.log.joined
    assert subject.taken_over == [{TP: 5}]
    assert await subject.poll() == [5, 6, 7]
    subject.log.finish()
    await subject.log.commit()

    await subject.rebalance()
    assert await subject.poll() == []
    assert subject.taken_over[-1] == {TP: 8}
    assert await subject.poll() == [8, 9, 10]


async def test_only_what_is_done_with_is_committed_and_only_once(subject: Subject) -> None:
    await subject.poll()
    await subject.poll()
    await subject.log.commit()
    assert subject.consumers[0].commits == []

    subject.log.finish()
    await subject.poll()
    await subject.log.commit()
    await subject.log.commit()
    assert subject.consumers[0].commits == [8]


async def test_records_of_a_poll_during_which_a_rebalance_ended_are_thrown_away(subject: Subject) -> None:
    await subject.poll()
    subject.consumers[0].on_poll.append(subject.rebalance)

    assert await subject.poll() == []
    assert await subject.poll() == [], "the new epoch begins"
    assert await subject.poll() == [5, 6, 7]


async def test_what_is_finished_after_the_epoch_is_not_committed(subject: Subject) -> None:
    await subject.poll()
    await subject.poll()
    await subject.rebalance()
    subject.log.finish()
    await subject.log.commit()

    assert subject.consumers[0].commits == []
    await subject.poll()
    await subject.log.commit()
    assert subject.consumers[0].commits == [], "the new epoch knows nothing of it"


async def test_error_of_the_client_is_a_new_start(subject: Subject) -> None:
    await subject.poll()
    await subject.poll()

    async def fail() -> None:
        raise KafkaError

    subject.consumers[0].on_poll.append(fail)
    assert await subject.poll() == []
    assert subject.consumers[0].stopped
    assert await subject.poll() == []
    await subject.log.on_partitions_assigned([TP])
    await subject.poll()
    assert await subject.poll() == [5, 6, 7], "nothing was committed"


async def test_refused_commit_is_no_error(subject: Subject) -> None:
    await subject.poll()
    await subject.poll()
    subject.log.finish()
    subject.consumers[0].refuse = True

    await subject.log.commit()
    subject.consumers[0].refuse = False
    await subject.log.commit()
    assert subject.consumers[0].commits == [8], "tried again"
    await subject.log.leave()
    await subject.log.leave()
    assert subject.consumers[0].stopped


async def test_record_that_cannot_be_parsed_is_found_handed_out_and_passed_over(subject: Subject) -> None:
    subject.poison |= {7, 8}
    assert await subject.poll() == []
    subject.consumers[0].poison = subject.poison
    assert await subject.poll() == [], "nobody knows yet which record it is"
    assert await subject.poll() == []
    await subject.log.on_partitions_assigned([TP])
    assert await subject.poll() == []

    found = [await subject.log.poll(timeout_ms=0, max_records=3) for _ in range(6)]
    assert [[record.offset for record in records] for records in found] == [[5], [6], [7], [8], [9], [10, 11, 12]]
    assert [isinstance(records[0], Unreadable) for records in found] == [False, False, True, True, False, False]
    subject.log.finish()
    await subject.log.commit()
    assert subject.consumers[-1].commits == [13]
