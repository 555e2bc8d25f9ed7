"""Which partitions of `batches` does this dispatcher own? SHELL: a consumer group that is joined and never read."""

from collections.abc import Collection

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from shared.kafka import consumer_options, start_client, stop_client
from shared.settings import KafkaSettings
from shared.topics import Topics, partition_of

log = structlog.get_logger(__name__)

GROUP = "dispatcher"
# Nothing is read, so as little as possible is fetched ahead.
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

    async def open(self) -> None:
        """Join the group; raises UnavailableError."""
        options = consumer_options(self._settings) | {"max_partition_fetch_bytes": FETCH_BYTES}
        group = f"{self._settings.topic_prefix}{GROUP}"
        consumer = AIOKafkaConsumer(
            **options, group_id=group, group_instance_id=self._instance_id, auto_offset_reset="latest"
        )
        consumer.subscribe([self._topic.name], listener=self)
        self._consumer = consumer  # before it starts, so that a start that is cancelled is cleaned up too
        await start_client(consumer, self._settings)

    async def close(self) -> None:
        """Leave the group."""
        if self._consumer is not None:
            await stop_client(self._consumer)

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
