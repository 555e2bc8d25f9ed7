"""How does one partition of the completions log become segments? SHELL: read, fold, append, tell.

A session recovers from the chain and goes on where it ends. Whatever goes wrong (another owner, a lost answer of
the store) ends the session, and the next one recovers; nothing is guessed.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import structlog
from aiokafka import TopicPartition

from services.collector.auditor import Auditor
from services.collector.closing import Closing
from services.collector.garbage import batches_in_question, new_chain_start
from services.collector.ledger import Closed, Dropped, Kept, Ledger, Shard, ShardId
from services.collector.line_traces import LineTraces
from services.collector.progress import Progress
from services.collector.result_files import LineIndex
from services.collector.segment_chain import ChainTaken, SegmentChain
from services.collector.settings import CollectorBlock
from shared.claim_check import parse_claim
from shared.claim_store import ClaimStore
from shared.dead_letters import UNREADABLE, dead_letter
from shared.error_codes import add_codes
from shared.errors import ObjectStoreError, SetupError, UnavailableError
from shared.kafka import KAFKA_ERRORS
from shared.lifecycle import Stop
from shared.log_reader import LogReader, Record
from shared.logs import of_record
from shared.messages import ShardProgressed, UnreadableRecord, encode
from shared.metric_names import (
    DEAD_LETTERS,
    LINES_COLLECTED,
    MESSAGES_CONSUMED,
    SEGMENT_APPEND,
    SEGMENT_BYTES,
    messaging_labels,
)
from shared.pace import Pace
from shared.publisher import OutgoingRecord, Publisher
from shared.record_headers import CompletionHeaders, read_completion_headers
from shared.segment import Entry, Segment, SegmentBuilder, flush_due
from shared.telemetry import Telemetry
from shared.topics import Topics, facet_key, partition_of

log = structlog.get_logger(__name__)

# A poll returns when something comes; with lines in hand it must not outlast the segment's age.
POLL_TIMEOUT_MS, IDLE_POLL_TIMEOUT_MS = 200, 1_000
POLL_RECORDS = 2_000
# Between two polls: each lets the client fetch once more, whatever there is.
POLL_INTERVAL_S = 0.02
RECOVER_BACKOFF_S = 1.0


class PartitionCollector:
    """The collector of one partition."""

    def __init__(
        self,
        *,
        partition: int,
        topics: Topics,
        settings: CollectorBlock,
        chain: SegmentChain,
        claims: ClaimStore,
        new_reader: Callable[[], LogReader],
        publisher: Publisher,
        closing: Closing,
        auditor: Auditor,
        telemetry: Telemetry,
    ) -> None:
        self._tp = TopicPartition(topics.completions.name, partition)
        self._topics = topics
        self._settings = settings
        self._chain = chain
        self._claims = claims
        self._new_reader = new_reader
        self._publisher = publisher
        self._closing = closing
        self._auditor = auditor
        self._telemetry = telemetry
        self._num_consumed = telemetry.counter(MESSAGES_CONSUMED)
        self._num_collected = telemetry.counter(LINES_COLLECTED)
        self._num_parked = telemetry.counter(DEAD_LETTERS)
        self._append_s, self._num_bytes = telemetry.histogram(SEGMENT_APPEND), telemetry.counter(SEGMENT_BYTES)
        self.ready = False
        self._forget()

    def _forget(self) -> None:
        self._ledger = Ledger()
        self._folded_to = 0
        self._indexes: dict[ShardId, LineIndex] = {}
        self._progress = Progress(self._settings.progress_interval_s)
        self._line_traces = LineTraces(self._telemetry, self._tp.topic)
        self._verdicts: Counter[str] = Counter()
        # Shards with records in hand: the ledger needs them, whatever was collected of their batches.
        self._in_hand: set[ShardId] = set()
        # When the batches of the oldest segments ended, as far as it was looked up.
        self._closed_at: dict[str, int] = {}

    async def run(self, stop: Stop) -> None:
        """Collect until asked to stop."""
        while not stop.requested:
            try:
                await self._session(stop)
            except* (ChainTaken, UnavailableError, *KAFKA_ERRORS) as errors:
                log.warning("collector recovers", partition=self._tp.partition, reason=str(errors.exceptions[0]))
            self.ready = False
            if not stop.requested:
                await stop.wait(RECOVER_BACKOFF_S)

    async def _session(self, stop: Stop) -> None:
        self._forget()
        reader = self._new_reader()
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._recover(reader, tasks)
                self.ready = True
                log.info("collecting", partition=self._tp.partition, offset=self._chain.next_offset)
                sides = [
                    tasks.create_task(self._audit_regularly(reader)),
                    tasks.create_task(self._collect_garbage_regularly()),
                ]
                await self._collect(reader, stop, tasks)
                for side in sides:
                    side.cancel()
        finally:
            await reader.close()

    async def _recover(self, reader: LogReader, tasks: asyncio.TaskGroup) -> None:
        async for segment in self._chain.walk():
            for entry in segment.entries:
                verdict = self._ledger.apply(entry.as_completion())
                assert not isinstance(verdict, Dropped), f"{segment.key}: {entry} was kept twice"
                self._index(segment.key, entry)
            for batch in segment.footer.batches:
                shard = self._ledger.shards[batch.id, batch.shard]
                shard.usage = shard.usage.plus(batch.usage)
                add_codes(shard.error_codes, batch.error_codes)
        await reader.open({self._tp: self._chain.next_offset})
        begin, end = (await reader.beginning_offsets())[self._tp], (await reader.end_offsets())[self._tp]
        if self._chain.next_offset is None:
            self._chain.start_at(reader.positions[self._tp])
        elif not begin <= self._chain.next_offset <= end:
            raise SetupError(
                f"{self._tp.topic}[{self._tp.partition}] holds offsets {begin} to {end}, but the segments in the store "
                f"end at {self._chain.next_offset}: this store belongs to another log, or the topic was made anew. "
                "Use the log's own store or another topic prefix; if this log lost its end, give it a new "
                "HEADRACE_KAFKA__LOG_ID and run 'headrace recover'"
            )
        for shard in list(self._ledger.shards.values()):
            if not self._closing.is_told(shard.batch_id):
                # The owner before may have died before it told, and the dispatcher waits for the counts.
                self._note_shard(shard)
            if shard.how_closed is not None:
                self._close(shard, tasks)

    async def _collect(self, reader: LogReader, stop: Stop, tasks: asyncio.TaskGroup) -> None:
        builder = self._chain.builder()
        opened_at, closing = time.monotonic(), []
        pace = Pace(POLL_INTERVAL_S)
        while not stop.requested:
            await pace.turn()
            timeout_ms = POLL_TIMEOUT_MS if len(builder) else IDLE_POLL_TIMEOUT_MS
            records = await reader.poll(timeout_ms=timeout_ms, max_records=POLL_RECORDS)
            for record in records:
                if not len(builder):
                    opened_at = time.monotonic()
                if shard := await self._fold(record, builder):
                    closing.append(shard)
            self._count(len(records))
            self._folded_to = reader.positions[self._tp]
            due = flush_due(
                num_bytes=builder.num_bytes,
                age_s=time.monotonic() - opened_at,
                closes_batch=bool(closing),
                max_bytes=self._settings.segment_bytes,
                max_age_s=self._settings.segment_age_s,
            )
            if len(builder) and due:
                await self._append(builder, reader)
                for shard in closing:
                    self._close(shard, tasks)
                builder, closing = self._chain.builder(), []
            await self._tell_progress()
        if len(builder):
            await self._append(builder, reader)
            await self._tell_progress()
            for shard in closing:
                self._close(shard, tasks)

    async def _fold(self, record: Record, builder: SegmentBuilder) -> Shard | None:
        """Fold one record in; the shard that it closes, if any."""
        try:
            headers = read_completion_headers(record.headers)
            value = _line_of(await self._value_of(record, headers), headers)
        except UnreadableRecord as error:
            await self._park(record, str(error))
            return None
        verdict = self._ledger.apply(headers)
        if headers.traceparent is not None and not isinstance(verdict, Dropped):
            self._line_traces.note(headers.traceparent, record, headers)
        match verdict:
            case Dropped(reason=reason):
                self._verdicts[reason] += 1
                log.debug("completion dropped", reason=reason, batch_id=headers.batch_id, line=headers.line)
                return None
            case Kept(closes=closes):
                pass
            case Closed():
                closes = True
        self._verdicts["kept"] += 1
        builder.add(headers, value)
        self._in_hand.add(headers.shard_id)
        return self._ledger.shards[headers.shard_id] if closes else None

    def _count(self, num_records: int) -> None:
        """Counted by the poll: one by one would cost as much as the folding."""
        if num_records:
            self._num_consumed.add(num_records, messaging_labels("poll", self._tp.topic))
        for verdict, number in self._verdicts.items():
            self._num_collected.add(number, {"verdict": verdict})
        self._verdicts.clear()

    async def _value_of(self, record: Record, headers: CompletionHeaders) -> bytes:
        return await self._claims.fetch(parse_claim(headers.claim)) if headers.claim else record.value or b""

    def _close(self, shard: Shard, tasks: asyncio.TaskGroup) -> None:
        self._closing.start(shard, self._indexes.pop((shard.batch_id, shard.number), None), tasks)

    async def _append(self, builder: SegmentBuilder, reader: LogReader) -> None:
        segment = builder.build(reader.positions[self._tp], int(time.time() * 1000))
        began = time.monotonic()
        key = await self._chain.append(segment)
        self._append_s.record(time.monotonic() - began)
        self._num_bytes.add(len(segment.data))
        for entry in segment.entries:
            self._index(key, entry)
        self._in_hand.clear()
        self._note_progress(segment)
        traced = self._line_traces.tell(key)
        with self._telemetry.records("commit", self._tp.topic, traced, len(segment.entries)):
            await reader.commit_gauge({self._tp: segment.footer.next_offset})

    def _index(self, key: str, entry: Entry) -> None:
        if not entry.is_line or self._closing.is_told(entry.batch_id):
            return
        shard_id = entry.as_completion().shard_id
        index = self._indexes.get(shard_id)
        if index is None:
            index = self._indexes[shard_id] = LineIndex()
        index.add(key, entry)

    def _note_progress(self, segment: Segment) -> None:
        for batch in segment.footer.batches:
            self._note_shard(self._ledger.shards[batch.id, batch.shard])

    def _note_shard(self, shard: Shard) -> None:
        answered_at = int(time.time()) if shard.num_answered == shard.num_lines else None
        index = self._indexes.get((shard.batch_id, shard.number))
        counts = ShardProgressed(
            completed=shard.completed,
            failed=shard.failed,
            usage=shard.usage,
            error_codes=dict(shard.error_codes),
            first_offset=index.first_offset if index else None,
            answered_at=answered_at,
        )
        self._progress.note((shard.batch_id, shard.number), counts)

    async def _tell_progress(self) -> None:
        due = self._progress.due(time.monotonic())
        await self._publisher.send_all(
            [self._facet_record(batch_id, f"progress/{n}", encode(counts)) for (batch_id, n), counts in due]
        )

    def _facet_record(self, batch_id: str, facet: str, value: bytes) -> OutgoingRecord:
        topic = self._topics.batches
        return OutgoingRecord(topic.name, value, partition_of(batch_id, topic.partitions), facet_key(batch_id, facet))

    async def _audit_regularly(self, reader: LogReader) -> None:
        while True:
            await asyncio.sleep(self._settings.audit_interval_s)
            try:
                await self._auditor.audit(self._ledger, reader, lambda: self._folded_to)
            except (ObjectStoreError, UnavailableError, *KAFKA_ERRORS) as error:
                log.warning("audit is tried again", partition=self._tp.partition, reason=str(error))

    async def _collect_garbage_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.garbage_interval_s)
            try:
                await self._collect_garbage()
            except (ObjectStoreError, UnavailableError) as error:
                log.warning("garbage is collected later", partition=self._tp.partition, reason=str(error))

    async def _collect_garbage(self) -> None:
        while unknown := batches_in_question(self._chain.contents, self._closed_at):
            found = {batch: await self._closing.closed_at(batch) for batch in unknown}
            self._closed_at |= {batch: at for batch, at in found.items() if at is not None}
            if None in found.values():
                break  # what lies behind an open batch stays anyway
        start = new_chain_start(
            self._chain.contents, self._closed_at, now_s=time.time(), retention_s=self._settings.segment_retention_s
        )
        if start is None:
            return
        num_removed = await self._chain.remove_before(start)
        kept = frozenset[str]().union(*(batches for _, batches in self._chain.contents))
        self._closed_at = {batch: at for batch, at in self._closed_at.items() if batch in kept}
        over = {s for s, shard in self._ledger.shards.items() if shard.how_closed and s[0] not in kept}
        for shard_id in over - self._in_hand:
            del self._ledger.shards[shard_id]
            self._indexes.pop(shard_id, None)
        log.info("segments removed", partition=self._tp.partition, num_removed=num_removed, chain_start=start)

    async def _park(self, record: Record, reason: str) -> None:
        log.warning("record parked", reason=reason, **of_record(record))
        await self._publisher.send(dead_letter(self._topics, record, UNREADABLE, reason))
        self._num_parked.add(1, {"error_type": UNREADABLE})
        self._telemetry.parked(record.topic, record.partition, record.offset, UNREADABLE, record.headers)


def _line_of(value: bytes, headers: CompletionHeaders) -> bytes:
    """The one line that a completion carries; raises UnreadableRecord for anything that would not be one in a file."""
    if headers.kind == "line" and (value.count(b"\n") != 1 or not value.endswith(b"\n")):
        raise UnreadableRecord("the value is not one line")
    return value if headers.kind == "line" else b""
