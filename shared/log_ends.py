"""Where does the log end now? SHELL: asked on a connection of its own, and once for all who ask at the same time.

On the connection of a consumer that fetches, the question would wait behind a fetch that the broker holds back until
something comes, half a second by default.
"""

import asyncio
from collections.abc import Collection, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import ConsumerStoppedError

from shared.errors import UnavailableError
from shared.kafka import KAFKA_ERRORS, make_log_consumer, start_client, stop_client
from shared.settings import KafkaSettings

Ends = Mapping[TopicPartition, int]


class LogEnds:
    """Ends of some partitions."""

    def __init__(self, settings: KafkaSettings, partitions: Collection[TopicPartition]) -> None:
        self._settings = settings
        self._partitions = list(partitions)
        self._consumer: AIOKafkaConsumer | None = None
        self._running: asyncio.Task[Ends] | None = None
        self._next: asyncio.Task[Ends] | None = None

    async def open(self) -> None:
        """Connect; raises UnavailableError."""
        consumer = make_log_consumer(self._settings)
        await start_client(consumer, self._settings)
        self._consumer = consumer  # nothing is assigned, so that it never fetches

    async def close(self) -> None:
        """Disconnect; safe to call twice."""
        consumer, self._consumer = self._consumer, None
        for task in (self._running, self._next):
            if task is not None:
                task.cancel()
        if consumer is not None:
            await stop_client(consumer)

    async def now(self) -> Ends:
        """One past the last record of each partition, not older than this call; raises UnavailableError."""
        if self._next is None:
            self._next = asyncio.create_task(self._ask_after(self._running))
        return await asyncio.shield(self._next)

    async def begin(self) -> Ends:
        """The first record of each partition that is still there; raises UnavailableError."""
        if self._consumer is None:
            raise UnavailableError("the log is not connected")
        try:
            return dict(await self._consumer.beginning_offsets(self._partitions))
        except (ConsumerStoppedError, *KAFKA_ERRORS) as error:
            raise UnavailableError(f"the log does not say where it begins: {error!r}") from error

    async def _ask_after(self, running: asyncio.Task[Ends] | None) -> Ends:
        """Who asks while a question is on its way waits for the next one, which all of them share."""
        if running is not None:
            await asyncio.wait({running})
        self._running, self._next = self._next, None
        if self._consumer is None:
            raise UnavailableError("the log is not connected")
        try:
            return dict(await self._consumer.end_offsets(self._partitions))
        except (ConsumerStoppedError, *KAFKA_ERRORS) as error:
            raise UnavailableError(f"the log does not say where it ends: {error!r}") from error
