"""How do batches come to be whose lines come by topic? SHELL: does what `batch_stream` says.

All records about a batch are in one partition of `batch-events`, so one process has it, and another one after a
rebalance. What is durable says where to go on: the chain of lines, the manifest, the facets. An offset is held back
until what its record says is one of them; whoever comes next reads it again.
"""

import asyncio
import time
from collections.abc import Collection, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec
import structlog
from opentelemetry.trace import SpanKind

from services.ingest.admission.batch_record import LINE, BatchEvent
from services.ingest.admission.batch_stream import BatchStream, Options, Step, WaitingLine
from services.ingest.admission.intake_headers import BATCH_OPEN
from services.ingest.admission.settings import IntakeBlock
from services.ingest.admission.stored_parts import StoredParts
from services.ingest.line_stream import Chunk
from services.ingest.log_writer import LogWriter
from services.ingest.quota import Quota, QuotaReached
from services.ingest.read_model import ReadModel
from services.ingest.request_line import BadLine, members_of, url_of
from services.ingest.view_feed import ViewFeed
from shared import identifiers
from shared.batch_state import BatchView
from shared.errors import HeadraceError, ObjectExists
from shared.lifecycle import Stop
from shared.log_reader import Record
from shared.messages import (
    BatchCloseRequested,
    BatchCreated,
    BatchDispatched,
    BatchReceived,
    BatchSealed,
    Growth,
    LineProblem,
)
from shared.openai_batch import CHAT_ENDPOINT, unanswered_line
from shared.record_headers import RequestHeaders
from shared.replies import Replies
from shared.result_records import result_record
from shared.telemetry import Telemetry, context_from, traceparent_of
from shared.topics import Topics, admitted_key, partition_of

log = structlog.get_logger(__name__)

TICK_S = 0.1
FAULT_BACKOFF_S = 1.0
# Between two facets that say how many lines came.
TELL_INTERVAL_S = 1.0
CONCURRENCY = 16
# Of lines that wait to be written, all batches together; above this nothing more is read.
WAITING_BYTES_MAX = 64 * 1024 * 1024
# What is over is remembered for so long after its last record, in case that its producer sends everything again.
LINGER_S = 30.0
START = Chunk(0, 0)
CLOSED_CODE = "batch_closed"
CLOSED_MESSAGE = "The batch was closed before this request came."
OVER_QUOTA_CODE = "batch_limit_exceeded"


@dataclass(slots=True, eq=False)
class TopicBatch:
    """One batch by name: its stream, its newest part, and where the next line of it goes."""

    tenant: str
    name: str
    partition: int
    stream: BatchStream
    created: BatchCreated | None = None
    at: Chunk = START
    num_told: int = 0
    told_at: float = 0.0
    is_close_told: bool = False
    retry_at: float = 0.0
    touched_s: float = 0.0


class TopicBatches:
    """The batches by topic whose partitions this process has."""

    def __init__(
        self,
        *,
        settings: IntakeBlock,
        window_s: int,
        topics: Topics,
        view: ReadModel,
        feed: ViewFeed,
        parts: StoredParts,
        log_writer: LogWriter,
        quota: Quota,
        replies: Replies,
        telemetry: Telemetry,
    ) -> None:
        """`window_s` = until the deadline of a batch that names none."""
        self._settings = settings
        self._window_s = window_s
        self._topics = topics
        self._view = view
        self._feed = feed
        self._parts = parts
        self._log_writer = log_writer
        self._quota = quota
        self._replies = replies
        self._telemetry = telemetry
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
        """Whether so much waits to be written that nothing more should be read."""
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
                log.debug("line repeated", batch=event.name, custom_id=event.custom_id)
        elif event.kind == BATCH_OPEN:
            stream.open(msgspec.json.decode(event.value, type=Options), record.offset)
        else:
            stream.close(int(event.value) if event.value else None, now_s, record.offset)

    async def run(self, stop: Stop) -> None:
        """Create, write, roll and seal what is due until asked to stop; what is left is held for whoever comes next."""
        while not await stop.wait(TICK_S):
            if self._batches:
                async with self._lock:
                    await self._turn(time.time())

    async def _turn(self, now_s: float) -> None:
        due: list[Coroutine[None, None, None]] = []
        for key, batch in list(self._batches.items()):
            step = batch.stream.step(now_s)
            if step != Step.WAIT and now_s >= batch.retry_at:
                due.append(self._try(batch, step, now_s))
            elif self._is_telling_due(batch, now_s):
                due.append(self._try(batch, None, now_s))
            elif now_s - batch.touched_s > LINGER_S and batch.stream.is_forgettable:
                del self._batches[key]
        await asyncio.gather(*due)

    async def _try(self, batch: TopicBatch, step: Step | None, now_s: float) -> None:
        try:
            async with self._slots:
                await self._do(batch, step, now_s)
        except (HeadraceError, OSError) as error:
            log.warning("batch by topic waits", batch=batch.name, step=step, reason=str(error))
            batch.retry_at = now_s + FAULT_BACKOFF_S
        except Exception:
            # A batch that our own code cannot stand must not stop everybody else's.
            log.exception("batch by topic crashed", batch=batch.name, step=step)
            batch.retry_at = now_s + FAULT_BACKOFF_S

    async def _do(self, batch: TopicBatch, step: Step | None, now_s: float) -> None:
        match step:
            case Step.LOAD:
                await self._load(batch, now_s)
            case Step.CREATE:
                await self._create(batch, now_s)
            case Step.WRITE:
                await self._write(batch, now_s)
            case Step.ROLL:
                if await self._seal(batch):
                    self._roll(batch)
            case Step.SEAL:
                await self._close(batch)
            case Step.REFUSE:
                await self._refuse(batch, now_s)
            case _:
                await self._tell(batch, now_s)

    def _found(self, event: BatchEvent, record: Record) -> TopicBatch:
        """A batch of which this process has not heard yet."""
        newest = self._view.newest_part(event.tenant, event.name)
        if newest is not None:
            return self._known(newest, record.partition)
        stream = BatchStream(first_seen_s=record.timestamp / 1000, room=self._settings.batch_lines_max)
        return TopicBatch(event.tenant, event.name, record.partition, stream)

    def _known(self, view: BatchView, partition: int) -> TopicBatch:
        """A batch as the log tells it; what its parts have in the store is loaded later."""
        created, growth = view.created, view.created.growth
        assert growth is not None, "found by its name"
        stream = BatchStream(
            first_seen_s=float(created.created_at),
            room=growth.room,
            must_load=True,
            options=_options_of(created, growth),
            is_created=True,
            created_s=float(created.created_at),
            part=growth.part,
            num_before=growth.lines_before,
            closed_s=float(view.close.closed_at) if view.close else None,
            declared=view.close.declared if view.close else None,
        )
        batch = TopicBatch(created.tenant, growth.name, partition, stream, created)
        batch.is_close_told = view.close is not None
        batch.num_told = view.num_lines
        return batch

    async def _load(self, batch: TopicBatch, now_s: float) -> None:
        """Learn what the chain has, whoever wrote it."""
        created, stream = batch.created, batch.stream
        assert created is not None and created.growth is not None, "a stream is loaded that exists"
        mine = await self._parts.ids_of(created.id)
        before = await self._parts.ids_before(created)
        stream.loaded(mine.hashes, before, mine.num_lines)
        batch.at = Chunk(mine.num_lines, mine.num_bytes)
        if not mine.is_sealed:
            return
        view = self._view.batch(created.id)
        if view is not None and _was_rolled(view, now_s):
            await self._tell_sealed(created.id, mine.num_lines)
            self._roll(batch)
        else:
            stream.is_over = True

    async def _create(self, batch: TopicBatch, now_s: float) -> None:
        with self._telemetry.tracer.start_as_current_span(
            "create batch",
            context_from(batch.stream.options.traceparent if batch.stream.options else None),
            SpanKind.INTERNAL,
        ) as span:
            wanted = self._wanted(batch, int(now_s), traceparent_of(span))
            span.set_attribute("headrace.batch.id", wanted.id)
            refusal = self._refusal(wanted)
            created, is_new = await self._parts.create(wanted)
            if not is_new:
                refusal = await self._parts.refusal_of(created.id)
            elif refusal is not None:
                await self._parts.refuse(created.id, refusal)
            if self._view.batch(created.id) is None:
                await self._log_writer.write_facet(created.id, "created", created)
        batch.created, batch.at, batch.num_told = created, START, 0
        batch.stream.created(now_s)
        batch.stream.must_load = not is_new
        if refusal is not None:
            await self._log_writer.write_facet(created.id, "dispatch", refusal)
            batch.stream.is_over = True
        log.info("batch by topic created", batch_id=created.id, batch=batch.name, part=batch.stream.part)

    def _refusal(self, wanted: BatchCreated) -> BatchDispatched | None:
        """How a batch fails that its tenant may not have; later parts of one are never refused."""
        assert wanted.growth is not None
        if wanted.growth.part:
            return None
        try:
            self._quota.check_open_batches(wanted.tenant)
        except QuotaReached as reached:
            problem = LineProblem(code=OVER_QUOTA_CODE, message=str(reached))
            return BatchDispatched(failed_at=wanted.created_at, errors=(problem,))
        return None

    def _wanted(self, batch: TopicBatch, now_s: int, traceparent: str | None) -> BatchCreated:
        stream, earlier = batch.stream, batch.created
        options = stream.options or Options()
        tenant, name, part = batch.tenant, batch.name, stream.part
        if earlier is not None:
            batch_id = identifiers.another_part(earlier.id, tenant, name, part)
        else:
            batch_id = identifiers.part_of_topic_batch(int(stream.first_seen_s * 1000) * 10**6, tenant, name, part)
        return BatchCreated(
            id=batch_id,
            endpoint=options.endpoint or (earlier.endpoint if earlier else _first_url(stream)),
            input_file_id=identifiers.input_file_id(batch_id),
            completion_window=options.completion_window,
            created_at=now_s,
            expires_at=now_s + (options.window_s or self._window_s),
            metadata=options.metadata,
            tenant=tenant,
            output_expires_after_s=options.output_expires_after_s,
            priority=options.priority,
            traceparent=traceparent,
            growth=Growth(
                name=name,
                room=self._settings.batch_lines_max,
                part=part,
                lines_before=stream.num_before,
                roll_lines=options.roll_lines,
                roll_s=options.roll_s,
            ),
        )

    async def _write(self, batch: TopicBatch, now_s: float) -> None:
        assert batch.created is not None
        lines = batch.stream.due()
        try:
            batch.at = await self._parts.chain(batch.created.id).append(batch.at, [line.value for line in lines])
        except ObjectExists:
            # Another owner wrote there, this one did without hearing of it, or the batch was ended.
            batch.stream.must_load = True
            return
        batch.stream.written(len(lines), now_s)

    def _is_telling_due(self, batch: TopicBatch, now_s: float) -> bool:
        stream = batch.stream
        if not stream.is_created or stream.must_load or stream.is_over or now_s - batch.told_at < TELL_INTERVAL_S:
            return False
        return stream.num_written != batch.num_told or (stream.closed_s is not None and not batch.is_close_told)

    async def _tell(self, batch: TopicBatch, now_s: float) -> None:
        """Say how many lines came, and that the producer is done."""
        stream = batch.stream
        assert batch.created is not None
        batch.told_at, num_lines = now_s, stream.num_written
        if num_lines != batch.num_told:
            await self._log_writer.write_facet(batch.created.id, "received", BatchReceived(num_lines=num_lines))
            batch.num_told = num_lines
        if stream.closed_s is not None and not batch.is_close_told:
            await self._tell_close(batch)

    async def _tell_close(self, batch: TopicBatch) -> None:
        stream = batch.stream
        assert batch.created is not None and stream.closed_s is not None
        facet = BatchCloseRequested(closed_at=int(stream.closed_s), declared=stream.declared)
        await self._log_writer.write_facet(batch.created.id, "close", facet)
        batch.is_close_told = True
        stream.told()

    async def _tell_sealed(self, batch_id: str, num_lines: int) -> None:
        await self._log_writer.write_facet(batch_id, "sealed", BatchSealed(num_lines=num_lines))

    async def _seal(self, batch: TopicBatch) -> bool:
        """End the part; False when its chain has what this process has not heard of."""
        assert batch.created is not None
        end = await self._parts.chain(batch.created.id).seal()
        if end.num_lines != batch.stream.num_written:
            batch.stream.must_load = True
            return False
        await self._tell_sealed(batch.created.id, end.num_lines)
        return True

    def _roll(self, batch: TopicBatch) -> None:
        batch.stream.rolled()
        batch.num_told, batch.told_at = 0, 0.0

    async def _close(self, batch: TopicBatch) -> None:
        """The producer is done: of the part that is open, or of the one before when none is."""
        if not batch.is_close_told:
            await self._tell_close(batch)
        if batch.stream.is_created and not await self._seal(batch):
            return
        batch.stream.is_over = True
        log.info("batch by topic closed", batch=batch.name, declared=batch.stream.declared)

    async def _refuse(self, batch: TopicBatch, now_s: float) -> None:
        """Answer what came too late, on `results`."""
        lines = list(batch.stream.waiting)
        answers = []
        for line in lines:
            headers = RequestHeaders(tenant=batch.tenant, request=line.custom_id, deadline_s=int(now_s))
            value = unanswered_line(
                answer_id=headers.answer_id, custom_id=line.custom_id, code=CLOSED_CODE, message=CLOSED_MESSAGE
            )
            answers.append(result_record(self._topics, headers, value, CLOSED_CODE))
        await self._replies.send_all(answers)
        batch.stream.written(len(lines), now_s)
        batch.stream.told()


def _was_rolled(view: BatchView, now_s: float) -> bool:
    """Whether a sealed part ended for the next one to begin, and not for good."""
    created, growth = view.created, view.created.growth
    if growth is None or view.close is not None:
        return False
    is_refused = view.dispatch is not None and view.dispatch.failed_at is not None
    return view.sealed is not None or not (
        is_refused or view.cancel is not None or (now_s >= created.expires_at and not growth.rolls)
    )


def _options_of(created: BatchCreated, growth: Growth) -> Options:
    """What was asked for, for the next parts."""
    return Options(
        endpoint=created.endpoint,
        completion_window=created.completion_window,
        window_s=created.expires_at - created.created_at,
        metadata=created.metadata,
        output_expires_after_s=created.output_expires_after_s,
        priority=created.priority,
        roll_lines=growth.roll_lines,
        roll_s=growth.roll_s,
        traceparent=created.traceparent,
    )


def _first_url(stream: BatchStream) -> str:
    """The endpoint that the first line names, if it does."""
    for line in stream.waiting:
        with suppress(BadLine, KeyError, msgspec.DecodeError):
            return url_of(members_of(line.value))
    return CHAT_ENDPOINT
