"""What is done at each step of a batch by topic? SHELL: one step of `batch_stream`, made durable and told.

A step that fails is taken again, by this process or by another one that has the batch then.
"""

from dataclasses import dataclass

import msgspec
import structlog
from opentelemetry.context import Context

from services.ingest.admission.batch_stream import BatchStream, Step
from services.ingest.admission.part_record import wanted_part, was_rolled
from services.ingest.admission.stored_parts import StoredParts
from services.ingest.line_stream import Chunk
from services.ingest.log_writer import LogWriter
from services.ingest.quota import Quota, QuotaReached
from services.ingest.read_model import ReadModel
from shared.errors import ObjectExists
from shared.logs import of_batch
from shared.messages import (
    BatchCloseRequested,
    BatchCreated,
    BatchDispatched,
    BatchReceived,
    BatchSealed,
    LineProblem,
)
from shared.openai_batch import unanswered_line
from shared.record_headers import RequestHeaders
from shared.replies import Replies
from shared.result_records import result_record
from shared.span_attributes import BATCH_ID
from shared.telemetry import Telemetry
from shared.topics import Topics
from shared.trace_context import context_from, traceparent_of

log = structlog.get_logger(__name__)

# Between two facets that say how many lines came.
TELL_INTERVAL_S = 1.0
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

    def is_telling_due(self, now_s: float) -> bool:
        """Whether there is something to tell, and it was quiet for a while."""
        stream = self.stream
        if not stream.is_created or stream.must_load or stream.is_over or now_s - self.told_at < TELL_INTERVAL_S:
            return False
        return stream.num_written != self.num_told or (stream.closed_s is not None and not self.is_close_told)


class PartSteps:
    """Acts."""

    def __init__(
        self,
        *,
        window_s: int,
        topics: Topics,
        view: ReadModel,
        parts: StoredParts,
        log_writer: LogWriter,
        quota: Quota,
        replies: Replies,
        telemetry: Telemetry,
    ) -> None:
        """`window_s` = until the deadline of a batch that names none."""
        self._window_s = window_s
        self._topics = topics
        self._view = view
        self._parts = parts
        self._log_writer = log_writer
        self._quota = quota
        self._replies = replies
        self._telemetry = telemetry

    async def take(self, batch: TopicBatch, step: Step, now_s: float) -> None:
        """Take a step, or say how far the batch is where none is due; raises UnavailableError."""
        match step:
            case Step.LOAD:
                await self._load(batch, now_s)
            case Step.CREATE:
                await self._create(batch, now_s)
            case Step.WRITE:
                await self._write(batch, now_s)
            case Step.ROLL:
                if await self._seal(batch):
                    _roll(batch)
            case Step.SEAL:
                await self._close(batch)
            case Step.REFUSE:
                await self._refuse(batch, now_s)
            case Step.WAIT:
                await self._tell(batch, now_s)

    async def _load(self, batch: TopicBatch, now_s: float) -> None:
        """Learn what the chain has, whoever wrote it."""
        created, stream = batch.created, batch.stream
        assert created is not None and created.growth is not None, "a stream is loaded that exists"
        mine = await self._parts.ids_of(created.id)
        before = await self._parts.ids_before(created)
        view = self._view.batch(created.id)
        assert view is not None, "what is known was read from the view, or waited for"
        if mine.is_sealed and view.sealed is None and not view.is_terminal:
            # Whoever sealed it may have died before it could tell. First, so that it is loaded again should this fail.
            await self._tell_sealed(created.id, mine.num_lines)
        stream.loaded(mine.hashes, before, mine.num_lines)
        batch.at = Chunk(mine.num_lines, mine.num_bytes)
        if not mine.is_sealed:
            return
        if was_rolled(view, now_s):
            _roll(batch)
        else:
            stream.is_over = True

    async def _create(self, batch: TopicBatch, now_s: float) -> None:
        opened = context_from(batch.stream.options.traceparent if batch.stream.options else None) or Context()
        with self._telemetry.kept("create batch", opened, {}) as span:
            wanted = wanted_part(
                batch.stream,
                batch.created,
                tenant=batch.tenant,
                name=batch.name,
                now_s=int(now_s),
                window_s=self._window_s,
            )
            wanted = msgspec.structs.replace(wanted, traceparent=traceparent_of(span))
            span.set_attribute(BATCH_ID, wanted.id)
            refusal = self._refusal(wanted)
            created, is_new = await self._parts.create(wanted)
            if not is_new:
                refusal = await self._parts.refusal_of(created.id)
            elif refusal is not None:
                await self._parts.refuse(created.id, refusal)
                await self._parts.chain(created.id).seal()
            if self._view.batch(created.id) is None:
                await self._log_writer.write_facet(created.id, "created", created)
        batch.created, batch.at, batch.num_told = created, START, 0
        batch.stream.created(now_s)
        batch.stream.must_load = not is_new
        if refusal is not None:
            await self._log_writer.write_facet(created.id, "dispatch", refusal)
            batch.stream.is_over = True
        log.info(
            "batch created",
            **of_batch(created),
            tenant=batch.tenant,
            endpoint=created.endpoint,
            batch_name=batch.name,
            part=batch.stream.part,
        )

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

    async def _close(self, batch: TopicBatch) -> None:
        """The producer is done: of the part that is open, or of the one before when none is."""
        if not batch.is_close_told:
            await self._tell_close(batch)
        if batch.stream.is_created and not await self._seal(batch):
            return
        batch.stream.is_over = True
        log.info("batch by topic closed", tenant=batch.tenant, batch_name=batch.name, declared=batch.stream.declared)

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


def _roll(batch: TopicBatch) -> None:
    batch.stream.rolled()
    batch.num_told, batch.told_at = 0, 0.0
