"""Which records are this worker's, and where are offsets committed? SHELL: the group consumer and listener.

The only caller of `commit`. Nothing is committed between `revoked` and `assigned`: a commit refused there
costs the member its id and starts another rebalance.
"""

import asyncio
import time
from collections import deque
from collections.abc import Collection

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from services.inference.offset_tracker import OffsetTracker
from shared.errors import HeadraceError
from shared.kafka import KAFKA_ERRORS, consumer_options, start_client, stop_client
from shared.log_reader import Record
from shared.settings import KafkaSettings

log = structlog.get_logger(__name__)

REVOKE_COMMIT_TIMEOUT_S = 5.0
REOPEN_BACKOFF_S = 1.0
# Two live members with one static id knock each other out for ever and neither notices; this does.
REBALANCES_MAX, REBALANCES_WINDOW_S = 20, 60.0


class EndlessRebalance(HeadraceError):
    """The group rebalances without end; probably two members carry the same static id."""


class AssignedLog(ConsumerRebalanceListener):  # type: ignore[misc]
    """The partitions that the group gave to this worker."""

    def __init__(self, settings: KafkaSettings, topic: str, instance_id: str | None) -> None:
        self._settings = settings
        self._topic = topic
        self._instance_id = instance_id
        self._consumer: AIOKafkaConsumer | None = None
        self._trackers: dict[TopicPartition, OffsetTracker] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._epoch = 0
        self._stable = False
        self._rebalances: deque[float] = deque(maxlen=REBALANCES_MAX)
        self.joined = False

    async def open(self) -> None:
        """Join the group; raises UnavailableError."""
        consumer = AIOKafkaConsumer(
            **consumer_options(self._settings),
            group_id=self._topic,
            group_instance_id=self._instance_id,
            auto_offset_reset="earliest",
            partition_assignment_strategy=(StickyPartitionAssignor,),
        )
        consumer.subscribe([self._topic], listener=self)
        await start_client(consumer, self._settings)
        self._consumer = consumer

    async def close(self) -> None:
        """Commit what is finished and leave."""
        if self._consumer is None:
            return
        await self.commit()
        consumer, self._consumer = self._consumer, None
        await stop_client(consumer)

    async def poll(self, *, timeout_ms: int, max_records: int) -> list[Record]:
        """Records that are new work. Any error of the client means that its positions are wrong: join anew."""
        if self._consumer is None:
            await self.open()
        assert self._consumer is not None
        try:
            polled = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=max_records)
        except KAFKA_ERRORS as error:
            log.warning("poll failed, joining the group anew", error=repr(error))
            await stop_client(self._consumer)
            self._consumer, self._stable = None, False
            self._epoch += 1  # the next consumer starts where the group has committed
            await asyncio.sleep(REOPEN_BACKOFF_S)
            return []
        # After the poll: a rebalance may finish inside it, and the records are then of the new epoch.
        epoch = self._epoch
        self._refuse_endless_rebalances()
        work: list[Record] = []
        for tp, records in polled.items():
            tracker = self._trackers.setdefault(tp, OffsetTracker())
            work.extend(record for record in records if tracker.deliver(record.offset, epoch))
        return work

    def finish(self, tp: TopicPartition, offset: int) -> None:
        """The completion of a record is acknowledged. A partition that was lost meanwhile is normal."""
        tracker = self._trackers.get(tp)
        if tracker is not None:
            tracker.finish(offset)

    async def commit(self) -> None:
        """Commit the first unfinished offset of each partition that moved."""
        if not self._stable or self._consumer is None:
            return
        wanted = {
            tp: tracker.committable_offset
            for tp, tracker in self._trackers.items()
            if tracker.committable_offset > self._committed.get(tp, 0)
        }
        if not wanted:
            return
        try:
            await self._consumer.commit(wanted)
        except KAFKA_ERRORS as error:
            log.info("commit refused, the records will be delivered again", error=repr(error))
            return
        self._committed.update(wanted)

    async def on_partitions_revoked(self, _revoked: Collection[TopicPartition]) -> None:
        """Last commit of the epoch, inside a limit."""
        self._epoch += 1
        try:
            async with asyncio.timeout(REVOKE_COMMIT_TIMEOUT_S):
                await self.commit()
        except TimeoutError:
            log.info("commit before a rebalance took too long", topic=self._topic)
        self._stable = False

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Keep the trackers of partitions that came back, drop the others."""
        self._stable = True
        self.joined = True
        self._rebalances.append(time.monotonic())
        for tp in set(self._trackers) - set(assigned):
            del self._trackers[tp]
        self._committed = {tp: self._committed[tp] for tp in assigned if tp in self._committed}
        log.info("partitions assigned", topic=self._topic, partitions=sorted(tp.partition for tp in assigned))

    def _refuse_endless_rebalances(self) -> None:
        full = len(self._rebalances) == REBALANCES_MAX
        if full and self._rebalances[-1] - self._rebalances[0] < REBALANCES_WINDOW_S:
            raise EndlessRebalance(
                f"{REBALANCES_MAX} rebalances of {self._topic} in {REBALANCES_WINDOW_S:.0f} s: "
                "is another worker running with the same HEADRACE_INFERENCE__WORKER_ID?"
            )
