"""How does one batch get from its lines onto the request topic? SHELL: publish, with a cursor."""

import time
from collections import Counter
from collections.abc import Callable

import msgspec
import structlog
from aiokafka.structs import RecordMetadata

from services.ingest.growing import destination_of, refused_line, with_destination
from services.ingest.line_blocks import LineBlocks, PromptedLine
from services.ingest.line_source import read_lines
from services.ingest.line_stream import LineStream
from services.ingest.line_traces import LineTraces
from services.ingest.placement import PREFIX_BYTES
from services.ingest.pool_queues import PoolQueues
from services.ingest.request_line import BadLine
from shared.batch_state import BatchView
from shared.claim_check import claim_of
from shared.claim_store import ClaimStore
from shared.messages import BatchDispatched, encode
from shared.metric_names import LINES_DISPATCHED, LINES_REFUSED
from shared.object_store import ObjectStore, file_key
from shared.openai_batch import model_of_line
from shared.publisher import OutgoingRecord, Publisher
from shared.record_headers import RequestHeaders, request_headers
from shared.telemetry import Telemetry
from shared.topics import Topic, Topics, facet_key, partition_of

log = structlog.get_logger(__name__)


class BatchRun:
    """Dispatches the lines of one validated batch from its cursor on."""

    def __init__(
        self,
        view: BatchView,
        *,
        store: ObjectStore,
        claims: ClaimStore,
        topics: Topics,
        publisher: Publisher,
        telemetry: Telemetry,
        queues: PoolQueues,
        pool_of: Callable[[str], str | None],
        like_lines_together: bool,
    ) -> None:
        """`pool_of` = the model whose workers serve a model now: of a batch that grows nobody looked before."""
        assert view.dispatch is not None, "validated batches only"
        self.created = view.created
        self._pools = {model: topics.requests(model) for model in view.dispatch.pool_models}
        self._pool_of_model = pool_of
        self._topics = topics
        self._store = store
        self._claims = claims
        self._publisher = publisher
        self._telemetry = telemetry
        self._queues = queues
        self._like_lines_together = like_lines_together
        self._num_dispatched = telemetry.counter(LINES_DISPATCHED)
        self._line_traces = LineTraces(telemetry, view.created)
        self._num_refused = telemetry.counter(LINES_REFUSED)
        self._answered: bytes | None = None
        self._num_answered_before = self._num_skipped = 0
        self.cursor = view.dispatch
        self._told_at = time.monotonic()
        self._num_told = self.cursor.num_dispatched
        self._blocks = self._read_on()

    @property
    def is_growing(self) -> bool:
        """Whether lines may still be added."""
        return self.cursor.growing

    def grow(self, total: int) -> None:
        """There are so many lines now."""
        if total > self.cursor.total:
            self.cursor = msgspec.structs.replace(self.cursor, total=total)
            self._blocks = self._read_on()

    def _read_on(self) -> LineBlocks:
        at = (self.cursor.next_line, self.cursor.next_byte)
        if self.is_growing:
            lines = LineStream(self._store, self.created.id).lines(*at)
        else:
            lines = read_lines(self._store, self.created.input_file_id, *at)
        return LineBlocks(lines, self.cursor, self.created.endpoint, like_lines_together=self._like_lines_together)

    @property
    def is_done(self) -> bool:
        """Whether every line is on the request topic."""
        return self.cursor.next_line >= self.cursor.total

    def outstanding(self, num_answered: int) -> int:
        """Lines on the request topic without a durable answer; those answered in an earlier log were never there."""
        answered_here = max(0, num_answered - self._num_answered_before)
        return max(0, self.cursor.num_dispatched - self._num_skipped - answered_here)

    @property
    def room(self) -> int | None:
        """Lines that its workers' queues have room for; None = as many as one likes."""
        return self._queues.of(next(iter(self._pools))).room if self._is_bounded else None

    @property
    def _is_bounded(self) -> bool:
        """Whether lines wait for room. Of several models one that finds none would stop all others behind it."""
        return len(self._pools) == 1 and self._queues.is_bounded(next(iter(self._pools)))

    async def dispatch(self, num_lines: int) -> None:
        """Publish the next lines, as far as there is room, and move the cursor once they are acknowledged.

        Raises UnavailableError.
        """
        if self._answered is None:
            await self._load_answered()
        for model in self._pools:
            self._queues.of(model).begin_round(num_lines)
        is_bounded, records, refused = self._is_bounded, list[OutgoingRecord](), list[OutgoingRecord]()
        while len(records) + len(refused) < num_lines and (found := await self._blocks.peek()) is not None:
            number, value = found.line.number, found.line.value or b""
            try:
                if self._was_answered(number):
                    self._num_skipped += 1
                elif (record := self._record(found, self._pool_for(value), is_bounded=is_bounded)) is not None:
                    records.append(await self._lightened(record))
                else:
                    break
            except BadLine as problem:
                refused.append(refused_line(self._topics, self.created, number, value, problem))
            self._blocks.advance()
        await self._publisher.send_all(refused)
        written = await self._send(records)
        self._count(records, refused)
        offsets = dict(self.cursor.highest_offsets)
        for metadata in written:
            partition = f"{metadata.topic}/{metadata.partition}"
            offsets[partition] = max(offsets.get(partition, -1), metadata.offset)
        known = self.cursor
        self.cursor = msgspec.structs.replace(
            self._blocks.cursor(offsets), model=known.model, pools=known.pools, served_by=known.served_by
        )

    async def _send(self, records: list[OutgoingRecord]) -> list[RecordMetadata]:
        """In the batch's trace, linked to the traces of its lines."""
        traced = self._line_traces.tell()
        topic = records[0].topic if records else ""
        with self._telemetry.records("send", topic, traced, len(records), self.created.traceparent):
            return await self._publisher.send_all(records)

    def _count(self, records: list[OutgoingRecord], refused: list[OutgoingRecord]) -> None:
        model_of = {topic.name: model for model, topic in self._pools.items()}
        for topic, number in Counter(record.topic for record in records).items():
            self._num_dispatched.add(number, {"model": model_of[topic]})
        if refused:
            self._num_refused.add(len(refused))

    def is_cursor_due(self, interval_s: float) -> bool:
        """Whether the cursor moved and is to be published: at most once per interval, and at the end."""
        moved = self.cursor.num_dispatched > self._num_told
        return moved and (self.is_done or time.monotonic() - self._told_at >= interval_s)

    async def tell_cursor(self) -> None:
        """Publish the cursor; a restart repeats what lies after it."""
        await self._publisher.send(dispatch_record(self._topics.batches, self.created.id, self.cursor))
        self._told_at, self._num_told = time.monotonic(), self.cursor.num_dispatched

    async def _load_answered(self) -> None:
        key = self.cursor.answered_key
        self._answered = await self._store.read(key) if key else b""
        self._num_answered_before = int.from_bytes(self._answered).bit_count()
        if key:
            before = filter(self.cursor.is_dispatched, range(self.cursor.dispatched_end))
            self._num_skipped = sum(map(self._was_answered, before))

    def _was_answered(self, line: int) -> bool:
        bits = self._answered or b""
        return line >> 3 < len(bits) and bool(bits[line >> 3] & (1 << (line & 7)))

    def _record(self, found: PromptedLine, model: str, *, is_bounded: bool) -> OutgoingRecord | None:
        """The line as a record for the workers of a model, or None when no queue has room."""
        number, value = found.line.number, found.line.value
        assert value is not None, "validation refuses lines over the limit"
        created, topic = self.created, self._pools[model]
        prefix = found.prompt[:PREFIX_BYTES] if self._like_lines_together else b"%d" % number
        partition = self._queues.of(model).place(prefix, is_bounded=is_bounded)
        if partition is None:
            return None
        headers = RequestHeaders(
            batch_id=created.id,
            line=number,
            total=created.record_total(self.cursor.total),
            deadline_s=created.expires_at,
            tenant=created.tenant,
            traceparent=self._line_traces.begin(number, value, topic.name, partition),
        )
        if self._claims.is_large(value) and created.growth is None:  # it lies in the store already
            claim = claim_of(value, file_key(created.input_file_id), found.line.start)
            headers, value = msgspec.structs.replace(headers, claim=claim.header()), b""
        return OutgoingRecord(topic.name, value, partition, None, request_headers(headers))

    async def _lightened(self, record: OutgoingRecord) -> OutgoingRecord:
        """The record of a line that is too large for one and lies nowhere for good."""
        if self.created.growth is None or not self._claims.is_large(record.value or b""):
            return record
        claim = (await self._claims.leave_request(record.value or b"")).header().encode()
        return msgspec.structs.replace(record, value=b"", headers=[*record.headers, ("claim", claim)])

    def _pool_for(self, value: bytes) -> str:
        """The model whose workers get a line; raises BadLine."""
        if self.created.growth is not None:
            found = destination_of(value, self.created.endpoint, self._pool_of_model)
            self.cursor = with_destination(self.cursor, found)
            self._pools.setdefault(found.pool, self._topics.requests(found.pool))
            return found.pool
        if len(self._pools) == 1:
            return next(iter(self._pools))
        return self.cursor.pool_of(model_of_line(value))


def dispatch_record(batches: Topic, batch_id: str, facet: BatchDispatched) -> OutgoingRecord:
    """The `dispatch` facet as a record."""
    partition = partition_of(batch_id, batches.partitions)
    return OutgoingRecord(batches.name, encode(facet), partition, facet_key(batch_id, "dispatch"))
