"""What has a consumer group committed? SHELL: offsets with their metadata, which the consumer itself does not show."""

import asyncio
from collections.abc import Collection

import structlog
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata

from shared.errors import UnavailableError
from shared.kafka import KAFKA_ERRORS, common_options, start_client, stop_client
from shared.settings import KafkaSettings

log = structlog.get_logger(__name__)


class GroupOffsets:
    """Reads committed offsets over a connection of its own, opened on first use."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._admin: AIOKafkaAdminClient | None = None
        self._lock = asyncio.Lock()

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """The next offset of those partitions for which the group has committed one; raises UnavailableError."""
        async with self._lock:
            try:
                async with asyncio.timeout(self._settings.request_timeout_s):
                    if self._admin is None:
                        self._admin = await self._connect()
                    found = await self._admin.list_consumer_group_offsets(group, partitions=list(partitions))
            except (TimeoutError, AttributeError, *KAFKA_ERRORS) as error:
                # The client raises AttributeError when a partition of the answer carries an error.
                await self._drop()
                raise UnavailableError(f"offsets of group {group} cannot be read: {error!r}") from error
            return {tp: committed for tp, committed in found.items() if committed.offset >= 0}

    async def close(self) -> None:
        """Let go of the connection."""
        await self._drop()

    async def _connect(self) -> AIOKafkaAdminClient:
        options = common_options(self._settings)
        admin = AIOKafkaAdminClient(
            bootstrap_servers=options["bootstrap_servers"], request_timeout_ms=options["request_timeout_ms"]
        )
        await start_client(admin, self._settings)
        return admin

    async def _drop(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            await stop_client(admin)
