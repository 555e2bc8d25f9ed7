"""How does the view follow the log, and when may a writer read its own write? SHELL."""

import asyncio

import structlog
from aiokafka import TopicPartition
from aiokafka.structs import RecordMetadata

from services.ingest.read_model import ReadModel
from shared.errors import UnavailableError
from shared.log_ends import LogEnds
from shared.log_reader import LogReader
from shared.topics import Topics

log = structlog.get_logger(__name__)

POLL_TIMEOUT_MS = 1000
POLL_RECORDS = 5_000
WAIT_TIMEOUT_S = 30.0
CATCH_UP_TIMEOUT_S = 10.0


def state_partitions(topics: Topics) -> list[TopicPartition]:
    """Partitions of the topics that say what there is."""
    kept = (topics.batches, topics.files, topics.keys)
    return [TopicPartition(topic.name, partition) for topic in kept for partition in range(topic.partitions)]


class ViewFeed:
    """Tails `batches`, `files`, `keys` and `workers` into the view."""

    def __init__(self, reader: LogReader, ends: LogEnds, view: ReadModel, topics: Topics) -> None:
        self._reader = reader
        self._ends = ends
        self._view = view
        self._topics = topics
        self._moved = asyncio.Condition()
        self._caught_up = asyncio.Event()
        # Set whenever something changed; who waits clears it.
        self.changed = asyncio.Event()

    @property
    def caught_up(self) -> bool:
        """Whether the view covers what was in the log when this process started."""
        return self._caught_up.is_set()

    async def wait_until_caught_up(self) -> None:
        """Until `caught_up`."""
        await self._caught_up.wait()

    async def run(self) -> None:
        """Follow the log until cancelled."""
        start: dict[TopicPartition, int | None] = {TopicPartition(self._topics.workers.name, 0): None}
        for tp in state_partitions(self._topics):
            start[tp] = self._view.position(tp.topic, tp.partition)
        await self._reader.open(start)
        await self._ends.open()
        try:
            ends = await self._reader.end_offsets()
            if any(self._reader.positions[tp] > end for tp, end in ends.items()):
                log.warning("the topics were made anew, and so is the view")
                self._view.forget()
                await self._reader.close()
                await self._reader.open(dict.fromkeys(start))
            while True:
                if not self.caught_up and all(self._reader.positions[tp] >= end for tp, end in ends.items()):
                    self._caught_up.set()
                    self.changed.set()
                records = await self._reader.poll(timeout_ms=POLL_TIMEOUT_MS, max_records=POLL_RECORDS)
                if not records:
                    continue
                self._view.apply(records)
                self.changed.set()
                async with self._moved:
                    self._moved.notify_all()
        finally:
            await self._reader.close()
            await self._ends.close()

    async def catch_up(self) -> None:
        """Until the view covers what is in the log now, so that no reader sees less than another instance showed.

        Raises UnavailableError when that takes longer than 10 s.
        """
        try:
            async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
                ends = await self._ends.now()
                async with self._moved:
                    await self._moved.wait_for(
                        lambda: all(self._reader.positions.get(tp, 0) >= end for tp, end in ends.items())
                    )
        except TimeoutError as error:
            raise UnavailableError(f"the log does not say where it ends: {error!r}") from error

    async def wait_for(self, written: RecordMetadata) -> None:
        """Until the view covers a record that was just acknowledged; raises UnavailableError after 30 s."""
        tp = TopicPartition(written.topic, written.partition)
        try:
            async with asyncio.timeout(WAIT_TIMEOUT_S), self._moved:
                await self._moved.wait_for(lambda: self._reader.positions.get(tp, 0) > written.offset)
        except TimeoutError:
            raise UnavailableError(f"the view did not reach {tp}@{written.offset} in {WAIT_TIMEOUT_S:.0f} s") from None
