"""Which batches are open, and how far are they dispatched? SHELL: a collector's view of the topic `batches`.

Only hints come from here: what is collected is decided by the completions log alone. The view saves a restarted
collector from finalising again what was told, and tells the auditor which lines there should be.
"""

from dataclasses import dataclass, replace

import structlog
from aiokafka import TopicPartition

from shared.log_reader import LogReader
from shared.messages import (
    BatchClosed,
    BatchCreated,
    BatchDispatched,
    Facet,
    ShardRedriven,
    UnreadableRecord,
    decode_facet,
)
from shared.topics import Topics

log = structlog.get_logger(__name__)

POLL_TIMEOUT_MS = 1_000
POLL_RECORDS = 5_000


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """What the log says of a batch that is not closed."""

    created: BatchCreated | None = None
    dispatch: BatchDispatched | None = None
    redriven: tuple[tuple[int, ShardRedriven], ...] = ()

    def redriven_of(self, shard: int) -> ShardRedriven | None:
        """The shard's last re-drive."""
        return dict(self.redriven).get(shard)


class OpenBatches:
    """Open batches, and the ids of the closed ones."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self.closed: set[str] = set()
        self.open: dict[str, OpenBatch] = {}

    async def load(self, reader: LogReader) -> None:
        """Read the topic up to its end."""
        topic = self._topics.batches
        await reader.open({TopicPartition(topic.name, number): None for number in range(topic.partitions)})
        ends = await reader.end_offsets()
        while any(reader.positions[tp] < end for tp, end in ends.items()):
            await self._poll(reader)

    async def follow(self, reader: LogReader) -> None:
        """Keep up until cancelled."""
        while True:
            await self._poll(reader)

    def apply(self, key: str, value: bytes | None) -> None:
        """Take in one record of the topic."""
        batch_id, _, name = key.partition("/")
        if value is None or batch_id in self.closed:
            return
        try:
            facet = decode_facet(value)
        except UnreadableRecord as error:
            log.warning("record ignored", key=key, reason=str(error))
            return
        if isinstance(facet, BatchClosed):
            self.closed.add(batch_id)
            self.open.pop(batch_id, None)
        else:
            self.open[batch_id] = _with(self.open.get(batch_id, OpenBatch()), name, facet)

    async def _poll(self, reader: LogReader) -> None:
        for record in await reader.poll(timeout_ms=POLL_TIMEOUT_MS, max_records=POLL_RECORDS):
            self.apply((record.key or b"").decode(errors="replace"), record.value)


def _with(batch: OpenBatch, name: str, facet: Facet) -> OpenBatch:
    match facet:
        case BatchCreated():
            return replace(batch, created=facet)
        case BatchDispatched():
            return replace(batch, dispatch=facet)
        case ShardRedriven():
            shard = int(name.partition("/")[2] or 0)
            return replace(batch, redriven=tuple((dict(batch.redriven) | {shard: facet}).items()))
        case _:
            return batch
