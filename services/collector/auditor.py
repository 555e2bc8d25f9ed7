"""How is a lost line found and healed? SHELL: gathers the facts of a proof, asks `audit`, and sends lines again."""

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import structlog
from aiokafka import TopicPartition

from services.collector.audit import Consumed, GiveUp, Redrive, is_dispatched, requests_of, verdict
from services.collector.ledger import Ledger, Shard, ShardId
from services.collector.open_batches import OpenBatch, OpenBatches
from shared.errors import ObjectStoreError
from shared.group_offsets import GroupOffsets
from shared.jsonl import Line, LineReader
from shared.kafka import OutgoingRecord, Publisher
from shared.log_reader import LogReader
from shared.messages import (
    BatchCreated,
    CompletionHeaders,
    RequestHeaders,
    ShardRedriven,
    completion_headers,
    encode,
    request_headers,
)
from shared.object_store import ObjectStore, file_key, final_key
from shared.openai_batch import decode_request_line, unanswered_line
from shared.telemetry import Telemetry
from shared.topics import RECORD_BYTES_MAX, Topic, Topics, completion_key, facet_key, num_shards, partition_of

log = structlog.get_logger(__name__)

LOST_CODE = "line_lost"
LOST_MESSAGE = "This request was lost again and again and was given up."
CHUNK_LINES = 500
_partition_counter = itertools.count()


@dataclass(frozen=True, slots=True)
class Suspect:
    """An open shard all of whose lines were dispatched, with what the log says of it."""

    shard_id: ShardId
    batch: OpenBatch
    created: BatchCreated
    requests_topic: Topic

    @property
    def redriven(self) -> ShardRedriven | None:
        """The shard's last re-drive."""
        return self.batch.redriven_of(self.shard_id[1])


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
        telemetry: Telemetry,
    ) -> None:
        self._tp = tp
        self._topics = topics
        self._open_batches = open_batches
        self._group_offsets = group_offsets
        self._publisher = publisher
        self._store = store
        self._num_redriven = telemetry.counter("headrace.lines.redriven", "Lines that were lost and sent again")
        self._ends: dict[tuple[ShardId, int], int] = {}

    async def audit(self, ledger: Ledger, reader: LogReader) -> None:
        """Look at every shard that could have lost lines; raises UnavailableError."""
        suspects = list(self._suspects(ledger))
        alive = {(suspect.shard_id, _attempt(suspect)) for suspect in suspects}
        self._ends = {key: end for key, end in self._ends.items() if key in alive}
        for topic in {suspect.requests_topic.name for suspect in suspects}:
            committed = await self._group_offsets.committed(topic)
            offsets = {str(tp.partition): found.offset for tp, found in committed.items() if tp.topic == topic}
            for suspect in suspects:
                if suspect.requests_topic.name == topic:
                    await self._judge(suspect, offsets, ledger, reader)

    def _suspects(self, ledger: Ledger) -> Iterator[Suspect]:
        partitions = self._topics.completions.partitions
        for batch_id, batch in self._open_batches.open.items():
            dispatch = batch.dispatch
            if dispatch is None or batch.created is None or dispatch.model is None or not is_dispatched(dispatch):
                continue
            for number in range(num_shards(dispatch.total)):
                shard = ledger.shards.get((batch_id, number))
                is_ours = partition_of(completion_key(batch_id, number), partitions) == self._tp.partition
                if is_ours and (shard is None or shard.how_closed is None):
                    yield Suspect((batch_id, number), batch, batch.created, self._topics.requests(dispatch.model))

    async def _judge(self, suspect: Suspect, committed: dict[str, int], ledger: Ledger, reader: LogReader) -> None:
        assert suspect.batch.dispatch is not None
        key = suspect.shard_id, _attempt(suspect)
        decision = verdict(
            requests=requests_of(suspect.batch.dispatch, suspect.redriven),
            committed=committed,
            folded_to=reader.positions[self._tp],
            end_when_consumed=self._ends.get(key),
            redriven=suspect.redriven,
        )
        match decision:
            case Consumed():
                # After the committed offsets were read: what they cover is below this end.
                self._ends[key] = (await reader.end_offsets())[self._tp]
            case Redrive() | GiveUp() if await self._store.size(final_key(suspect.shard_id[0])) is not None:
                pass  # it ended, its segments were collected, and its end has not reached this view yet
            case Redrive(attempt=attempt):
                await self._redrive(suspect, _missing(suspect, ledger), attempt)
            case GiveUp():
                await self._give_up(suspect, _missing(suspect, ledger))

    async def _redrive(self, suspect: Suspect, missing: list[int], attempt: int) -> None:
        """Publish the lines once more, then the facet that says so; a crash in between repeats them."""
        batch_id, number = suspect.shard_id
        log.error("lost lines are sent again", batch_id=batch_id, num_lines=len(missing), attempt=attempt)
        assert suspect.batch.dispatch is not None
        offsets: dict[str, int] = {}
        async for lines in self._chunks(suspect, missing):
            records = [self._request(suspect, line, attempt) for line in lines]
            for written in await self._publisher.send_all(records):
                partition = str(written.partition)
                offsets[partition] = max(offsets.get(partition, -1), written.offset)
        self._num_redriven.add(len(missing))
        so_far = suspect.redriven.num_lines if suspect.redriven else 0
        facet = ShardRedriven(attempt=attempt, num_lines=so_far + len(missing), highest_offsets=offsets)
        topic, key = self._topics.batches, facet_key(batch_id, f"redriven/{number}")
        home = partition_of(batch_id, topic.partitions)
        await self._publisher.send(OutgoingRecord(topic.name, encode(facet), home, key))
        self._open_batches.apply(key.decode(), encode(facet))

    async def _give_up(self, suspect: Suspect, missing: list[int]) -> None:
        log.error("lost lines are given up", batch_id=suspect.shard_id[0], num_lines=len(missing))
        async for lines in self._chunks(suspect, missing):
            await self._publisher.send_all([self._error_line(suspect, line) for line in lines])

    async def _chunks(self, suspect: Suspect, missing: list[int]) -> AsyncIterator[list[Line]]:
        """The missing lines of the input file, some at a time, in line order."""
        wanted, chunk = set(missing), []
        reader = LineReader(RECORD_BYTES_MAX)
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
        created, dispatch = suspect.created, suspect.batch.dispatch
        assert dispatch is not None
        headers = RequestHeaders(
            batch_id=created.id,
            line=line.number,
            total=dispatch.total,
            deadline_s=created.expires_at,
            attempt=attempt,
            tenant=created.tenant,
        )
        topic = suspect.requests_topic
        partition = next(_partition_counter) % topic.partitions
        return OutgoingRecord(topic.name, line.value, partition, None, request_headers(headers))

    def _error_line(self, suspect: Suspect, line: Line) -> OutgoingRecord:
        assert suspect.batch.dispatch is not None
        batch_id, number = suspect.shard_id
        value = unanswered_line(
            batch_id=batch_id,
            line=line.number,
            custom_id=decode_request_line(line.value or b"").custom_id,
            code=LOST_CODE,
            message=LOST_MESSAGE,
        )
        headers = CompletionHeaders(
            kind="line", batch_id=batch_id, line=line.number, total=suspect.batch.dispatch.total
        )
        key = completion_key(batch_id, number)
        return OutgoingRecord(self._tp.topic, value, self._tp.partition, key, completion_headers(headers))


def _attempt(suspect: Suspect) -> int:
    return suspect.redriven.attempt if suspect.redriven else 1


def _missing(suspect: Suspect, ledger: Ledger) -> list[int]:
    batch_id, number = suspect.shard_id
    assert suspect.batch.dispatch is not None
    shard = ledger.shards.get(suspect.shard_id) or Shard(batch_id, number, suspect.batch.dispatch.total)
    if not shard.bitmap:
        shard.bitmap = bytearray((shard.num_lines + 7) // 8)
    return shard.missing()
