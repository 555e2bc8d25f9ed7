"""How are topics shared out over the instances and read in order? SHELL: a group consumer that commits what is done.

Each epoch begins where the group has committed: whatever the client handed out before is thrown away, so a record may
be seen twice and none is passed over. Any error of the client means that its positions are wrong: join anew.

Anybody may have written these records, and the client cannot read all that a broker takes: a header whose name is not
UTF-8 ends its parsing of a batch. Partitions are then read one by one and record by record until the one is found that
cannot be read; it is handed out as such, and passed over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.structs import ConsumerRecord

from shared.errors import UnavailableError
from shared.kafka import KAFKA_ERRORS, start_client, stop_client
from shared.log_reader import Record
from shared.settings import KafkaSettings

log = structlog.get_logger(__name__)

REJOIN_BACKOFF_S = 1.0
SETTLE_POLL_MS = 50
REVOKE_COMMIT_TIMEOUT_S = 5.0
# For a record of one partition while one that cannot be read is looked for; longer than a broker holds a fetch.
CAREFUL_TIMEOUT_MS = 2_000
TakeOver = Callable[[Mapping[TopicPartition, int]], Awaitable[None]]
Held = Callable[[], Mapping[TopicPartition, int]]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record of which no more is known than where it is."""

    topic: str
    partition: int
    offset: int
    reason: str

    def as_record(self) -> Record:
        """As a record without content."""
        return ConsumerRecord(self.topic, self.partition, self.offset, 0, 0, None, None, None, 0, 0, ())


class GroupLog(ConsumerRebalanceListener):  # type: ignore[misc]
    """The partitions of some topics that the group gave to this process."""

    def __init__(
        self,
        *,
        settings: KafkaSettings,
        topics: Sequence[str],
        new_consumer: Callable[[], AIOKafkaConsumer],
        take_over: TakeOver,
        held: Held,
    ) -> None:
        """`take_over` is called with the offsets where each epoch begins, before any record of it is handed out.

        `held` says which offsets are not to be committed yet although their records were taken in.
        """
        self._settings = settings
        self._topics = topics
        self._new_consumer = new_consumer
        self._take_over = take_over
        self._held = held
        self._consumer: AIOKafkaConsumer | None = None
        self._epoch = 0
        self._begun = -1
        self._stable = False
        self._polled: dict[TopicPartition, int] = {}
        # The next offsets of what is taken in, and of what is committed.
        self._done: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}
        # Partitions that are read in turn and record by record, because one of them has a record that cannot be read.
        self._careful: list[TopicPartition] = []
        self._is_careful_next = self._is_found = False
        self.joined = False

    async def poll(self, *, timeout_ms: int, max_records: int, without: str = "") -> list[Record | Unreadable]:
        """The next records, in order within a partition; none while an epoch begins, and none of a topic `without`."""
        try:
            if self._consumer is None:
                await self._open()
            assert self._consumer is not None
            if self._begun != self._epoch:
                await (self._begin() if self._stable else self._wait_until_settled())
                return []
            if self._careful:
                return await self._poll_carefully()
            wanted = [tp for tp in self._consumer.assignment() if tp.topic != without] if without else []
            if without and not wanted:  # the client takes none for all
                await asyncio.sleep(timeout_ms / 1000)
                return []
            polled = await self._consumer.getmany(*wanted, timeout_ms=timeout_ms, max_records=max_records)
            if self._begun != self._epoch:
                return []  # a rebalance began inside the poll
        except (UnavailableError, TimeoutError, *KAFKA_ERRORS) as error:
            log.warning("poll failed, joining the group anew", error=repr(error))
            await self.leave()
            await asyncio.sleep(REJOIN_BACKOFF_S)
            return []
        except Exception as error:  # noqa: BLE001 - whatever the parser raises is about a record, not about us
            log.error("records cannot be parsed, they are read one by one", error=repr(error))
            await self.leave()
            self._is_careful_next = True
            return []
        return self._handed_out(polled)

    def _handed_out(self, polled: Mapping[TopicPartition, Sequence[Record]]) -> list[Record | Unreadable]:
        self._note({tp: records[-1].offset + 1 for tp, records in polled.items()})
        return [record for records in polled.values() for record in records]

    def _note(self, positions: Mapping[TopicPartition, int]) -> None:
        self._polled.update(positions)
        self._next.update(positions)

    async def _poll_carefully(self) -> list[Record | Unreadable]:
        """One record of the next partition, or what cannot be read there; behind that all are read as ever."""
        assert self._consumer is not None
        tp = self._careful[0]
        try:
            polled = await self._consumer.getmany(tp, timeout_ms=CAREFUL_TIMEOUT_MS, max_records=1)
        except (UnavailableError, *KAFKA_ERRORS):
            raise
        except Exception as error:  # noqa: BLE001 - as above
            offset = self._next[tp]
            log.error("record cannot be parsed", topic=tp.topic, partition=tp.partition, offset=offset)
            self._is_found = True
            self._note({tp: offset + 1})
            self._consumer.seek(tp, offset + 1)
            return [Unreadable(tp.topic, tp.partition, offset, f"the record cannot be parsed: {error!r}")]
        if self._begun != self._epoch:
            return []
        if self._is_found:
            self._careful, self._is_found = [], False
        else:  # a partition without records has none that cannot be read
            self._careful = self._careful[1:] + ([tp] if polled else [])
        return self._handed_out(polled)

    def finish(self) -> None:
        """All that was handed out is done with, but for what is held."""
        self._done.update(self._polled)
        self._polled.clear()

    async def commit(self) -> None:
        """Commit what is done with; what is refused is handed out again, here or elsewhere."""
        if self._consumer is None or not self._stable or self._begun != self._epoch:
            return
        held = self._held()
        due = {tp: min(offset, held.get(tp, offset)) for tp, offset in self._done.items()}
        due = {tp: offset for tp, offset in due.items() if offset > self._committed.get(tp, -1)}
        if not due:
            return
        try:
            await self._consumer.commit(due)
        except KAFKA_ERRORS as error:
            log.info("commit refused, it is tried again or the records are delivered again", error=repr(error))
        else:
            self._committed |= due

    async def leave(self) -> None:
        """Let go of everything; the next poll joins anew. Safe to call twice."""
        consumer, self._consumer, self._stable = self._consumer, None, False
        self._epoch += 1
        self._polled, self._done, self._committed = {}, {}, {}
        if consumer is not None:
            await stop_client(consumer)

    async def on_partitions_revoked(self, _revoked: Collection[TopicPartition]) -> None:
        """The epoch is over. What is under way is not waited for: another instance may do it again."""
        try:
            async with asyncio.timeout(REVOKE_COMMIT_TIMEOUT_S):
                await self.commit()
        except TimeoutError:
            log.info("commit before a rebalance took too long")
        self._epoch += 1
        self._stable = False

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """The next epoch; it begins with the next poll."""
        self._stable = True
        log.info("admitting from partitions", partitions=sorted(f"{tp.topic}/{tp.partition}" for tp in assigned))

    async def _open(self) -> None:
        consumer = self._new_consumer()
        consumer.subscribe(list(self._topics), listener=self)
        await start_client(consumer, self._settings)
        self._consumer = consumer

    async def _wait_until_settled(self) -> None:
        """The client gives up on a group for good after some answers, and says so to nobody but who polls."""
        assert self._consumer is not None
        await self._consumer.getmany(timeout_ms=SETTLE_POLL_MS, max_records=1)

    async def _begin(self) -> None:
        assert self._consumer is not None
        consumer, epoch = self._consumer, self._epoch
        assigned = set(consumer.assignment())
        async with asyncio.timeout(self._settings.request_timeout_s):
            committed = {tp: await consumer.committed(tp) for tp in assigned}
            unknown = [tp for tp, offset in committed.items() if offset is None]
            begins = await consumer.beginning_offsets(unknown) if unknown else {}
        positions = {tp: begins[tp] if offset is None else offset for tp, offset in committed.items()}
        await self._take_over(positions)
        if epoch != self._epoch:
            return
        for tp in assigned & set(consumer.assignment()):
            consumer.seek(tp, positions[tp])
        self._polled, self._done, self._committed, self._begun = {}, {}, {}, epoch
        self._next = dict(positions)
        self._careful = sorted(assigned) if self._is_careful_next else []
        self._is_careful_next = self._is_found = False
        self.joined = True
