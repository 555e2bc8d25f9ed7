"""How do batches come to be whose lines come by topic? SHELL: does what `batch_stream` says.

All records about a batch are in one partition of `batch-events`, so one process has it, and another one after a
rebalance. What is durable says where to go on: the chain of lines, the manifest, the facets. An offset is held back
until what its record says is one of them; whoever comes next reads it again.
"""

import asyncio
import time
from collections.abc import Collection, Coroutine, Mapping

import msgspec
import structlog

from services.ingest.admission.batch_record import LINE, BatchEvent
from services.ingest.admission.batch_stream import BatchStream, Options, Step, WaitingLine
from services.ingest.admission.intake_headers import BATCH_OPEN
from services.ingest.admission.part_record import known_stream
from services.ingest.admission.part_steps import PartSteps, TopicBatch
from services.ingest.read_model import ReadModel
from services.ingest.view_feed import ViewFeed
from shared.batch_state import BatchView
from shared.errors import HeadraceError
from shared.lifecycle import Stop
from shared.log_reader import Record
from shared.topics import Topics, admitted_key, partition_of

log = structlog.get_logger(__name__)

TICK_S, IDLE_TICK_S = 0.1, 0.5
FAULT_BACKOFF_S = 1.0
CONCURRENCY = 16
# Of lines that wait to be written, all batches together; above this no more of them are read.
WAITING_BYTES_MAX = 64 * 1024 * 1024
# What is over is remembered for so long after its last record, in case that its producer sends everything again.
LINGER_S = 30.0


class TopicBatches:
    """The batches by topic whose partitions this process has."""

    def __init__(self, *, lines_max: int, topics: Topics, view: ReadModel, feed: ViewFeed, steps: PartSteps) -> None:
        """`lines_max` = lines of a part."""
        self._lines_max = lines_max
        self._topics = topics
        self._view = view
        self._feed = feed
        self._steps = steps
        self._batches: dict[tuple[str, str], TopicBatch] = {}
        self._lock = asyncio.Lock()
        self._slots = asyncio.Semaphore(CONCURRENCY)

    def held(self) -> Mapping[int, int]:
        """The first offset of each partition of `batch-events` that must not be committed yet."""
        found: dict[int, int] = {}
        for batch in self._batches.values():
            if (offset := batch.stream.held) is not None:
                found[batch.partition] = min(offset, found.get(batch.partition, offset))
        return found

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be written that no more should be read."""
        return sum(batch.stream.waiting_bytes for batch in self._batches.values()) > WAITING_BYTES_MAX

    async def take_over(self, partitions: Collection[int]) -> None:
        """Begin with these partitions: open batches go on where whoever had them before left them.

        Raises UnavailableError.
        """
        async with self._lock:
            self._batches.clear()
            await self._feed.catch_up()
            for view in self._view.open_batches():
                growth, tenant = view.created.growth, view.created.tenant
                if growth is None or view.sealed is not None:
                    continue
                newest = self._view.newest_part(tenant, growth.name)
                partition = partition_of(admitted_key(tenant, growth.name), self._topics.batch_events.partitions)
                if partition in partitions and newest is not None and newest.created.id == view.created.id:
                    self._batches[tenant, growth.name] = self._known(view, partition)

    def take(self, event: BatchEvent, record: Record) -> None:
        """Take in one record, which stays held until it is durable."""
        batch = self._batches.get((event.tenant, event.name))
        if batch is None:
            batch = self._batches[event.tenant, event.name] = self._found(event, record)
        stream, now_s = batch.stream, time.time()
        batch.touched_s = now_s
        if event.kind == LINE:
            line = WaitingLine(hash(event.custom_id), event.custom_id, event.value, record.offset)
            if not stream.add(line, now_s):
                log.debug("line repeated", batch_name=event.name, custom_id=event.custom_id)
        elif event.kind == BATCH_OPEN:
            stream.open(msgspec.json.decode(event.value, type=Options), record.offset)
        else:
            stream.close(int(event.value) if event.value else None, now_s, record.offset)

    async def run(self, stop: Stop) -> None:
        """Create, write, roll and seal what is due until asked to stop; what is left is held for whoever comes next."""
        while not await stop.wait(TICK_S if self._batches else IDLE_TICK_S):
            if self._batches:
                async with self._lock:
                    await self._turn(time.time())

    async def _turn(self, now_s: float) -> None:
        due: list[Coroutine[None, None, None]] = []
        for key, batch in list(self._batches.items()):
            self._notice_end(batch)
            step = batch.stream.step(now_s)
            if (step != Step.WAIT or batch.is_telling_due(now_s)) and now_s >= batch.retry_at:
                due.append(self._take(batch, step, now_s))
            elif now_s - batch.touched_s > LINGER_S and batch.stream.is_forgettable:
                del self._batches[key]
        await asyncio.gather(*due)

    def _notice_end(self, batch: TopicBatch) -> None:
        """Others end batches too, by a cancel or at the deadline."""
        stream, created = batch.stream, batch.created
        if created is not None and stream.is_created and not stream.is_over:
            stream.must_load |= self._view.open_batch(created.id) is None

    async def _take(self, batch: TopicBatch, step: Step, now_s: float) -> None:
        try:
            async with self._slots:
                await self._steps.take(batch, step, now_s)
        except (HeadraceError, OSError) as error:
            log.warning(
                "batch by topic waits", tenant=batch.tenant, batch_name=batch.name, step=step, reason=str(error)
            )
            batch.retry_at = now_s + FAULT_BACKOFF_S
        except Exception:
            # A batch that our own code cannot stand must not stop everybody else's.
            log.exception("batch by topic crashed", tenant=batch.tenant, batch_name=batch.name, step=step)
            batch.retry_at = now_s + FAULT_BACKOFF_S

    def _found(self, event: BatchEvent, record: Record) -> TopicBatch:
        """A batch of which this process has not heard yet."""
        newest = self._view.newest_part(event.tenant, event.name)
        if newest is not None:
            return self._known(newest, record.partition)
        stream = BatchStream(first_seen_s=record.timestamp / 1000, room=self._lines_max)
        return TopicBatch(event.tenant, event.name, record.partition, stream)

    def _known(self, view: BatchView, partition: int) -> TopicBatch:
        """A batch as the log tells it."""
        created = view.created
        assert created.growth is not None, "found by its name"
        batch = TopicBatch(created.tenant, created.growth.name, partition, known_stream(view), created)
        batch.is_close_told, batch.num_told = view.close is not None, view.num_lines
        return batch
