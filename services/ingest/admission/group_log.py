"""How are topics shared out over the instances and read in order? SHELL: a group consumer that commits what is done.

Each epoch begins where the group has committed: whatever the client handed out before is thrown away, so a record may
be seen twice and none is passed over. Any error of the client means that its positions are wrong: join anew.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from shared.errors import UnavailableError
from shared.kafka import KAFKA_ERRORS, start_client, stop_client
from shared.log_reader import Record
from shared.settings import KafkaSettings

log = structlog.get_logger(__name__)

REJOIN_BACKOFF_S = 1.0
REVOKE_COMMIT_TIMEOUT_S = 5.0
TakeOver = Callable[[Mapping[TopicPartition, int]], Awaitable[None]]


class GroupLog(ConsumerRebalanceListener):  # type: ignore[misc]
    """The partitions of some topics that the group gave to this process."""

    def __init__(
        self,
        *,
        settings: KafkaSettings,
        topics: Sequence[str],
        new_consumer: Callable[[], AIOKafkaConsumer],
        take_over: TakeOver,
    ) -> None:
        """`take_over` is called with the offsets where each epoch begins, before any record of it is handed out."""
        self._settings = settings
        self._topics = topics
        self._new_consumer = new_consumer
        self._take_over = take_over
        self._consumer: AIOKafkaConsumer | None = None
        self._epoch = 0
        self._begun = -1
        self._stable = False
        self._polled: dict[TopicPartition, int] = {}
        self._done: dict[TopicPartition, int] = {}
        self.joined = False

    async def poll(self, *, timeout_ms: int, max_records: int) -> list[Record]:
        """The next records, in order within a partition; none while an epoch begins."""
        try:
            if self._consumer is None:
                await self._open()
            assert self._consumer is not None
            polled = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=max_records)
            if not self._stable:
                return []
            if self._begun != self._epoch:
                await self._begin()
                return []
        except (UnavailableError, TimeoutError, *KAFKA_ERRORS) as error:
            log.warning("poll failed, joining the group anew", error=repr(error))
            await self.leave()
            await asyncio.sleep(REJOIN_BACKOFF_S)
            return []
        self._polled.update({tp: records[-1].offset + 1 for tp, records in polled.items()})
        return [record for records in polled.values() for record in records]

    def finish(self) -> None:
        """All that was handed out is done with."""
        self._done.update(self._polled)
        self._polled.clear()

    async def commit(self) -> None:
        """Commit what is done with; what is refused is handed out again, here or elsewhere."""
        if not self._done or self._consumer is None or not self._stable or self._begun != self._epoch:
            return
        done, self._done = self._done, {}
        try:
            await self._consumer.commit(done)
        except KAFKA_ERRORS as error:
            log.info("commit refused, it is tried again or the records are delivered again", error=repr(error))
            self._done = done | self._done

    async def leave(self) -> None:
        """Let go of everything; the next poll joins anew. Safe to call twice."""
        consumer, self._consumer, self._stable = self._consumer, None, False
        self._epoch += 1
        self._polled, self._done = {}, {}
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
        self._polled, self._done, self._begun = {}, {}, epoch
        self.joined = True
