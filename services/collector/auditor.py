"""How is a lost line found and healed? SHELL: gathers the facts of a proof, asks `audit`, and sends lines again."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec
import structlog
from aiokafka import TopicPartition
from aiokafka.structs import RecordMetadata

from services.collector.audit import Consumed, GiveUp, Redrive, requests_of, verdict
from services.collector.ledger import Ledger, ShardId
from services.collector.open_batches import OpenBatch, OpenBatches
from shared.claim_check import REQUEST_BYTES_MAX, claim_of
from shared.claim_store import ClaimStore
from shared.errors import ObjectStoreError
from shared.group_offsets import GroupOffsets
from shared.identifiers import request_id
from shared.jsonl import Line, LineReader
from shared.log_reader import LogReader
from shared.messages import BatchCreated, BatchDispatched, ShardRedriven, encode
from shared.metric_names import LINES_REDRIVEN
from shared.object_store import ObjectStore, file_key, final_key
from shared.openai_batch import decode_request_line, model_of_line, unanswered_line
from shared.publisher import OutgoingRecord, Publisher
from shared.record_headers import CompletionHeaders, RequestHeaders, completion_headers, request_headers
from shared.telemetry import Telemetry
from shared.topics import Topic, Topics, completion_key, facet_key, num_shards, partition_of
from shared.trace_context import traceparent_in

log = structlog.get_logger(__name__)

LOST_CODE = "line_lost"
LOST_MESSAGE = "This request was lost again and again and was given up."
CHUNK_LINES = 500


@dataclass(frozen=True, slots=True)
class Suspect:
    """An open shard of which lines were dispatched, with what the log says of it."""

    shard_id: ShardId
    batch: OpenBatch
    created: BatchCreated
    dispatch: BatchDispatched
    # By the model whose workers read it.
    request_topics: Mapping[str, Topic]

    @property
    def redriven(self) -> ShardRedriven | None:
        """The shard's last re-drive."""
        return self.batch.redriven_of(self.shard_id[1])

    def topic_of(self, line: bytes) -> Topic:
        """Where a line is sent."""
        if len(self.request_topics) == 1:
            return next(iter(self.request_topics.values()))
        return self.request_topics[self.dispatch.pool_of(model_of_line(line))]

    @property
    def proof_id(self) -> tuple[ShardId, int, int]:
        """What a noted end of the completions log belongs to: more lines or another attempt need a new one."""
        return self.shard_id, self.dispatch.num_dispatched, self.redriven.attempt if self.redriven else 1

    def missing(self, ledger: Ledger) -> list[int]:
        """Dispatched lines without a completion."""
        shard = ledger.shards.get(self.shard_id) or Ledger.new_shard(
            self.shard_id, self.created.record_total(self.dispatch.total)
        )
        if shard.how_closed is not None:
            return []
        return [line for line in shard.missing() if self.dispatch.is_dispatched(line)]


class Auditor:
    """Audits the shards of one partition of the completions log."""

    def __init__(
        self,
        *,
        tp: TopicPartition,
        topics: Topics,
        open_batches: OpenBatches,
        group_offsets: GroupOffsets,
        publisher: Publisher,
        store: ObjectStore,
        claims: ClaimStore,
        telemetry: Telemetry,
    ) -> None:
        self._tp = tp
        self._topics = topics
        self._turns = itertools.count()
        self._open_batches = open_batches
        self._group_offsets = group_offsets
        self._publisher = publisher
        self._store = store
        self._claims = claims
        self._telemetry = telemetry
        self._num_redriven = telemetry.counter(LINES_REDRIVEN)
        self._ends: dict[tuple[ShardId, int, int], int] = {}

    async def audit(self, ledger: Ledger, reader: LogReader, folded_to: Callable[[], int]) -> None:
        """Look at every shard that could have lost lines; raises UnavailableError.

        `folded_to` tells the next offset that the ledger has not seen, which can be behind the reader's position.
        """
        suspects = list(self._suspects(ledger))
        current = {suspect.proof_id for suspect in suspects}
        self._ends = {proof_id: end for proof_id, end in self._ends.items() if proof_id in current}
        committed: dict[str, int] = {}
        for topic in {topic.name: topic for suspect in suspects for topic in suspect.request_topics.values()}.values():
            partitions = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
            found = await self._group_offsets.committed(topic.name, partitions)
            committed |= {f"{tp.topic}/{tp.partition}": offset.offset for tp, offset in found.items()}
        for suspect in suspects:
            await self._judge(suspect, committed, ledger, reader, folded_to)

    def _suspects(self, ledger: Ledger) -> Iterator[Suspect]:
        partitions = self._topics.completions.partitions
        for batch_id, batch in self._open_batches.open.items():
            dispatch = batch.dispatch
            if dispatch is None or batch.created is None or not dispatch.pool_models or dispatch.num_dispatched == 0:
                continue
            if dispatch.growing:
                continue  # its lines are no file yet
            topics = {model: self._topics.requests(model) for model in dispatch.pool_models}
            for number in range(num_shards(dispatch.dispatched_end)):
                shard = ledger.shards.get((batch_id, number))
                is_ours = partition_of(completion_key(batch_id, number), partitions) == self._tp.partition
                if is_ours and (shard is None or shard.how_closed is None):
                    yield Suspect((batch_id, number), batch, batch.created, dispatch, topics)

    async def _judge(
        self,
        suspect: Suspect,
        committed: dict[str, int],
        ledger: Ledger,
        reader: LogReader,
        folded_to: Callable[[], int],
    ) -> None:
        decision = verdict(
            requests=requests_of(suspect.dispatch, suspect.redriven),
            committed=committed,
            folded_to=folded_to(),
            end_when_consumed=self._ends.get(suspect.proof_id),
            redriven=suspect.redriven,
        )
        match decision:
            case Consumed():
                # After the committed offsets were read: what they cover is below this end.
                self._ends[suspect.proof_id] = (await reader.end_offsets())[self._tp]
            case Redrive() | GiveUp() if await self._store.size(final_key(suspect.shard_id[0])) is not None:
                pass  # it ended, its segments were collected, and its end has not reached this view yet
            case Redrive(attempt=attempt) if missing := suspect.missing(ledger):
                await self._redrive(suspect, missing, attempt)
            case GiveUp() if missing := suspect.missing(ledger):
                await self._give_up(suspect, missing)

    async def _redrive(self, suspect: Suspect, missing: list[int], attempt: int) -> None:
        """Publish the lines once more, then the facet that says so; a crash in between repeats them."""
        batch_id, number = suspect.shard_id
        log.error("lost lines are sent again", batch_id=batch_id, num_lines=len(missing), attempt=attempt)
        offsets: dict[str, int] = {}
        num_sent = 0
        async for lines in self._chunks(suspect, missing):
            records = [self._request(suspect, line, attempt) for line in lines]
            for written in await self._send(suspect, records):
                partition = f"{written.topic}/{written.partition}"
                offsets[partition] = max(offsets.get(partition, -1), written.offset)
            num_sent += len(lines)
            self._num_redriven.add(len(lines))
        so_far = suspect.redriven.num_lines if suspect.redriven else 0
        facet = ShardRedriven(attempt=attempt, num_lines=so_far + num_sent, highest_offsets=offsets)
        topic, key = self._topics.batches, facet_key(batch_id, f"redriven/{number}")
        home = partition_of(batch_id, topic.partitions)
        await self._publisher.send(OutgoingRecord(topic.name, encode(facet), home, key))
        self._open_batches.apply(key.decode(), encode(facet))

    async def _send(self, suspect: Suspect, records: list[OutgoingRecord]) -> list[RecordMetadata]:
        """In the batch's trace, linked to the lines' own, in which they go on."""
        traced = [found for record in records if (found := traceparent_in(record.headers))]
        with self._telemetry.records("send", records[0].topic, traced, len(records), suspect.created.traceparent):
            return await self._publisher.send_all(records)

    async def _give_up(self, suspect: Suspect, missing: list[int]) -> None:
        log.error("lost lines are given up", batch_id=suspect.shard_id[0], num_lines=len(missing))
        async for lines in self._chunks(suspect, missing):
            await self._publisher.send_all([self._error_line(suspect, line) for line in lines])

    async def _chunks(self, suspect: Suspect, missing: list[int]) -> AsyncIterator[list[Line]]:
        """The missing lines of the input file, some at a time, in line order."""
        wanted, chunk = set(missing), []
        reader = LineReader(REQUEST_BYTES_MAX)
        try:
            async for data in self._store.stream(file_key(suspect.created.input_file_id)):
                chunk += [line for line in reader.feed(data) if line.number in wanted]
                if len(chunk) >= CHUNK_LINES:
                    yield chunk
                    chunk = []
        except ObjectStoreError as error:
            log.error("lost lines cannot be read", batch_id=suspect.shard_id[0], reason=str(error))
            return
        chunk += [line for line in reader.finish() if line.number in wanted]
        if chunk:
            yield chunk

    def _request(self, suspect: Suspect, line: Line, attempt: int) -> OutgoingRecord:
        created = suspect.created
        traced = self._telemetry.trace_of_line(created.id, line.number)
        headers = RequestHeaders(
            batch_id=created.id,
            line=line.number,
            total=created.record_total(suspect.dispatch.total),
            deadline_s=created.expires_at,
            attempt=attempt,
            tenant=created.tenant,
            traceparent=traced.traceparent if traced else None,
        )
        topic = suspect.topic_of(line.value or b"")
        partition = next(self._turns) % topic.partitions
        value = line.value or b""
        if self._claims.is_large(value):
            claim = claim_of(value, file_key(created.input_file_id), line.start)
            headers, value = msgspec.structs.replace(headers, claim=claim.header()), b""
        return OutgoingRecord(topic.name, value, partition, None, request_headers(headers))

    def _error_line(self, suspect: Suspect, line: Line) -> OutgoingRecord:
        batch_id, number = suspect.shard_id
        value = unanswered_line(
            answer_id=request_id(batch_id, line.number),
            custom_id=decode_request_line(line.value or b"").custom_id,
            code=LOST_CODE,
            message=LOST_MESSAGE,
        )
        headers = CompletionHeaders(
            kind="line",
            batch_id=batch_id,
            line=line.number,
            total=suspect.created.record_total(suspect.dispatch.total),
            error_code=LOST_CODE,
        )
        key = completion_key(batch_id, number)
        return OutgoingRecord(self._tp.topic, value, self._tp.partition, key, completion_headers(headers))
