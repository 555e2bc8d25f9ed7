"""How does the end of a shard become known? SHELL: finalise patiently, then tell the files and the terminal facet."""

import asyncio
import time

import structlog

from services.collector.finalizer import ClosedShard, Finalizer
from services.collector.garbage import NEVER_CREATED
from services.collector.ledger import Shard
from services.collector.result_files import LineIndex
from shared.errors import ObjectStoreError, UnavailableError
from shared.messages import BatchClosed, encode
from shared.publisher import OutgoingRecord, Publisher
from shared.topics import Topics, facet_key, partition_of

log = structlog.get_logger(__name__)

FINALISE_BACKOFF_S = 2.0


class Closing:
    """Finalises closed shards in the background of a session, each in a task of its own."""

    def __init__(self, *, finalizer: Finalizer, publisher: Publisher, topics: Topics, told: set[str]) -> None:
        self._finalizer = finalizer
        self._publisher = publisher
        self._topics = topics
        # Batches whose terminal facet is in the log; shared with the view of the topic.
        self._told = told

    def is_told(self, batch_id: str) -> bool:
        """Whether the batch's end is in the log."""
        return batch_id in self._told

    async def closed_at(self, batch_id: str) -> int | None:
        """The Unix second at which a batch ended, NEVER_CREATED for one that nobody created, None for an open one.

        A terminal record alone is not the end: whoever wrote it may have died before it told, and then the segments
        are what makes the next owner tell.
        """
        if batch_id in self._told:
            return await self._finalizer.closed_at(batch_id)
        return None if await self._finalizer.was_created(batch_id) else NEVER_CREATED

    def start(self, shard: Shard, index: LineIndex | None, tasks: asyncio.TaskGroup) -> None:
        """Finalise a shard whose last record is durable, unless its batch's end was told."""
        if shard.batch_id in self._told:
            shard.bitmap = bytearray()
            return
        closed = ClosedShard(shard, index or LineIndex(), int(time.time()))
        tasks.create_task(self._finalise_and_tell(closed), name=f"finalise {shard.batch_id}#{shard.number}")

    async def _finalise_and_tell(self, closed: ClosedShard) -> None:
        batch_id = closed.shard.batch_id
        final = await self._finalise_patiently(closed)
        closed.shard.bitmap = bytearray()  # nothing asks a closed shard for its lines
        if final is None:
            return
        await self._tell(batch_id, final)
        self._told.add(batch_id)

    async def _finalise_patiently(self, closed: ClosedShard) -> BatchClosed | None:
        """Try until it works: a store or disk that is full or away must not hold up the partition."""
        while True:
            try:
                final = await self._finalizer.finalize(closed)
                if final is None and not await self._finalizer.was_created(closed.shard.batch_id):
                    log.error("no batch of this id was ever created", batch_id=closed.shard.batch_id)
                return final
            except (ObjectStoreError, UnavailableError, OSError) as error:
                log.warning("finalising is tried again", batch_id=closed.shard.batch_id, reason=str(error))
            await asyncio.sleep(FINALISE_BACKOFF_S)

    async def _tell(self, batch_id: str, final: BatchClosed) -> None:
        """Files first, so that a batch that looks closed can always be downloaded."""
        files = [OutgoingRecord(self._topics.files.name, encode(file), 0, file.id.encode()) for file in final.files]
        await self._publisher.send_all(files)
        topic = self._topics.batches
        partition, key = partition_of(batch_id, topic.partitions), facet_key(batch_id, "closed")
        await self._publisher.send(OutgoingRecord(topic.name, encode(final), partition, key))
