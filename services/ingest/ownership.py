"""Which partitions of `batches` does this dispatcher own? SHELL: a consumer group whose records are of no interest."""

import asyncio
from collections.abc import Collection

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from shared.errors import UnavailableError
from shared.kafka import KAFKA_ERRORS, consumer_options, start_client, stop_client
from shared.settings import KafkaSettings
from shared.topics import Topics, partition_of

log = structlog.get_logger(__name__)

GROUP = "dispatcher"
REJOIN_BACKOFF_S = 1.0
CHECK_INTERVAL_S = 1.0
# Nothing that is read is of use, so as little as possible is fetched ahead.
FETCH_BYTES = 1024


class Ownership(ConsumerRebalanceListener):  # type: ignore[misc]
    """The set of partitions that the group gave to this process."""

    def __init__(self, settings: KafkaSettings, topics: Topics, instance_id: str | None) -> None:
        self._settings = settings
        self._instance_id = instance_id
        self._topic = topics.batches
        self._consumer: AIOKafkaConsumer | None = None
        self._partitions: frozenset[int] = frozenset()
        self.joined = False

    async def run(self) -> None:
        """Be a member of the group until cancelled."""
        while True:
            try:
                await self._join()
                await self._stay()
            except (UnavailableError, *KAFKA_ERRORS) as error:
                log.warning("group left, joining it anew", error=repr(error))
            await self.close()
            await asyncio.sleep(REJOIN_BACKOFF_S)

    async def _join(self) -> None:
        options = consumer_options(self._settings) | {"max_partition_fetch_bytes": FETCH_BYTES}
        group = f"{self._settings.topic_prefix}{GROUP}"
        consumer = AIOKafkaConsumer(
            **options, group_id=group, group_instance_id=self._instance_id, auto_offset_reset="latest"
        )
        consumer.subscribe([self._topic.name], listener=self)
        self._consumer = consumer  # before it starts, so that a start that is cancelled is cleaned up too
        await start_client(consumer, self._settings)

    async def _stay(self) -> None:
        """The client gives up on a group for good after some answers, and says so to nobody but who polls."""
        assert self._consumer is not None
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            await self._consumer.getmany(timeout_ms=0, max_records=1)

    async def close(self) -> None:
        """Leave the group. Safe to call twice."""
        consumer, self._consumer, self._partitions = self._consumer, None, frozenset()
        if consumer is not None:
            await stop_client(consumer)

    def owns(self, batch_id: str) -> bool:
        """Whether this process dispatches the batch. Two may believe so for a moment: lines are repeated."""
        return partition_of(batch_id, self._topic.partitions) in self._partitions

    @property
    def owns_first(self) -> bool:
        """Whether this process does what one process is enough for."""
        return 0 in self._partitions

    async def on_partitions_revoked(self, _revoked: Collection[TopicPartition]) -> None:
        """Nothing is ours until the group has settled."""
        self._partitions = frozenset()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """These are ours."""
        self._partitions = frozenset(tp.partition for tp in assigned)
        self.joined = True
        log.info("dispatching for partitions", partitions=sorted(self._partitions))
