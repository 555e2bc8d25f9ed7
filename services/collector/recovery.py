"""How does a log that lost everything get its batches back? SHELL: from the object store, which lost nothing.

Batches and files that the log does not know are published again. Lines of unfinished batches that are in segments go
into the new completions log as they stood in the old one, first and in the same order, so that every verdict is the
same; an object with one bit a line keeps the dispatcher from sending them to a worker again. Safe to repeat, and
without effect on a log that knows all its batches.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import structlog
from aiokafka import TopicPartition

from services.collector.chains import ChainName, Lineage, chains_in
from services.collector.ledger import Dropped, Ledger, Shard
from services.collector.segment_chain import ChainedSegment, SegmentChain
from shared.error_codes import error_code_of_line
from shared.errors import ObjectExists
from shared.key_store import publish_key, read_keys
from shared.log_reader import LogReader
from shared.messages import (
    BatchCancelRequested,
    BatchClosed,
    BatchCreated,
    BatchDispatched,
    Facet,
    ShardProgressed,
    StoredFile,
    encode,
)
from shared.object_store import (
    ObjectStore,
    answered_key,
    batch_of_manifest,
    cancel_key,
    final_key,
    lineage_key,
    manifest_key,
    read_json,
    validated_key,
)
from shared.publisher import OutgoingRecord, Publisher
from shared.record_headers import completion_headers
from shared.topics import SHARD_LINES, Topic, Topics, completion_key, facet_key, partition_of
from shared.usage import usage_of_line

log = structlog.get_logger(__name__)

READ_TIMEOUT_MS = 500
READ_RECORDS = 5_000


@dataclass(slots=True)
class Recovered:
    """What was published again."""

    num_finished: int = 0
    num_unfinished: int = 0
    num_files: int = 0
    num_lines: int = 0


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """What the store knows of a batch."""

    created: BatchCreated
    cancel: BatchCancelRequested | None
    validated: BatchDispatched | None
    final: BatchClosed | None


@dataclass(slots=True)
class KnownKeys:
    """Keys that the log has, so that nothing is published over what is newer."""

    facets: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    api_keys: set[str] = field(default_factory=set)


class Recovery:
    """Fills one log from one store."""

    def __init__(self, *, store: ObjectStore, topics: Topics, publisher: Publisher, log_id: str) -> None:
        self._store = store
        self._topics = topics
        self._publisher = publisher
        self._log_id = log_id
        self._done = Recovered()

    async def run(self, reader: LogReader) -> Recovered:
        """Publish what is missing; raises UnavailableError, BrokenChain."""
        known = await self._read_known(reader)
        unknown = [
            batch_id
            for key in await self._store.keys("batches/")
            if (batch_id := batch_of_manifest(key)) and facet_key(batch_id, "created").decode() not in known.facets
        ]
        batches = {batch_id: await self._stored_batch(batch_id) for batch_id in unknown}
        ledger = Ledger()
        old = [name for name in await chains_in(self._store) if name.log_id != self._log_id]
        if old:
            # First: should this log be lost too, its chains are still read after the older ones.
            ancestors = tuple(dict.fromkeys(name.log_id for name in old))
            with contextlib.suppress(ObjectExists):
                await self._store.create(lineage_key(self._log_id), msgspec.json.encode(Lineage(ancestors)))
        for name in old:
            await self._publish_lines(name, ledger, {b for b, stored in batches.items() if stored.final is None})
        for stored in batches.values():
            await self._publish_batch(stored, ledger, known)
        await self._publish_files(batches.values(), known)
        for key_id, key in (await read_keys(self._store)).items():
            if key_id not in known.api_keys:
                await publish_key(self._publisher, self._topics, key)
        return self._done

    async def _read_known(self, reader: LogReader) -> KnownKeys:
        known = KnownKeys()
        batches, files, api_keys = self._topics.batches, self._topics.files, self._topics.keys
        names = {batches.name: known.facets, files.name: known.files, api_keys.name: known.api_keys}
        partitions = [TopicPartition(t.name, n) for t in (batches, files, api_keys) for n in range(t.partitions)]
        await reader.open(dict.fromkeys(partitions))
        ends = await reader.end_offsets()
        while any(reader.positions[tp] < end for tp, end in ends.items()):
            for record in await reader.poll(timeout_ms=READ_TIMEOUT_MS, max_records=READ_RECORDS):
                names[record.topic].add((record.key or b"").decode(errors="replace"))
        return known

    async def _stored_batch(self, batch_id: str) -> StoredBatch:
        created = await read_json(self._store, manifest_key(batch_id), BatchCreated)
        assert created is not None, "its manifest was listed"
        return StoredBatch(
            created=created,
            cancel=await read_json(self._store, cancel_key(batch_id), BatchCancelRequested),
            validated=await read_json(self._store, validated_key(batch_id), BatchDispatched),
            final=await read_json(self._store, final_key(batch_id), BatchClosed),
        )

    async def _publish_lines(self, name: ChainName, ledger: Ledger, unfinished: set[str]) -> None:
        chain = SegmentChain(self._store, name.log_id, name.topic, name.partition)
        async for segment in chain.walk():
            if any(batch.id in unfinished for batch in segment.footer.batches):
                await self._publish_segment(segment, ledger, unfinished)

    async def _publish_segment(self, segment: ChainedSegment, ledger: Ledger, unfinished: set[str]) -> None:
        data = await self._store.read(segment.key)
        records, topic = [], self._topics.completions
        for entry in segment.entries:
            completion = entry.as_completion()
            if entry.batch_id not in unfinished:
                continue
            value = data[entry.position : entry.position + entry.length] if entry.is_line else b""
            if completion.succeeded:
                completion = msgspec.structs.replace(completion, usage=usage_of_line(value))
            elif entry.is_line:
                completion = msgspec.structs.replace(completion, error_code=error_code_of_line(value))
            if isinstance(ledger.apply(completion), Dropped):
                continue
            key = completion_key(*completion.shard_id)
            headers = completion_headers(completion)
            partition = partition_of(key, topic.partitions)
            records.append(OutgoingRecord(topic.name, value if entry.is_line else None, partition, key, headers))
        await self._publisher.send_all(records)
        self._done.num_lines += len(records)

    async def _publish_batch(self, stored: StoredBatch, ledger: Ledger, known: KnownKeys) -> None:
        batch_id = stored.created.id
        facets: dict[str, Facet] = {}
        shards = [shard for (batch, _), shard in ledger.shards.items() if batch == batch_id]
        if stored.validated is not None or (shards and stored.created.growth is not None):
            facets["dispatch"] = await self._dispatch_facet(stored, shards)
        if stored.cancel is not None:
            facets["cancel"] = stored.cancel
        for shard in shards:
            facets[f"progress/{shard.number}"] = ShardProgressed(
                completed=shard.completed, failed=shard.failed, usage=shard.usage, error_codes=shard.error_codes
            )
        if stored.final is not None:
            facets["closed"] = stored.final
        is_over = stored.final is not None or (stored.validated is not None and stored.validated.failed_at is not None)
        self._done.num_finished += is_over
        self._done.num_unfinished += not is_over
        records = {facet_key(batch_id, name): facet for name, facet in facets.items()}
        await self._publish(self._topics.batches, {k: f for k, f in records.items() if k.decode() not in known.facets})
        # Last, when the others are acknowledged: nobody acts on a batch whose `created` facet is missing.
        await self._publish(self._topics.batches, {facet_key(batch_id, "created"): stored.created})

    async def _dispatch_facet(self, stored: StoredBatch, shards: list[Shard]) -> BatchDispatched:
        """Nothing is dispatched yet in the new log, except what was answered in the old ones.

        A batch that grew does so again until it is sealed in this log too.
        """
        created, validated = stored.created, stored.validated
        if stored.final is not None and validated is not None:
            return validated
        found = validated or BatchDispatched(in_progress_at=created.created_at)
        if found.failed_at is None and created.growth is not None:
            found = msgspec.structs.replace(found, growing=True)
        if not shards:
            return found
        key = answered_key(created.id, self._log_id)
        with contextlib.suppress(ObjectExists):
            await self._store.create(key, answered_bits(shards, created.record_total(found.total)))
        return msgspec.structs.replace(found, answered_key=key)

    async def _publish_files(self, batches: Iterable[StoredBatch], known: KnownKeys) -> None:
        files: dict[bytes, StoredFile] = {}
        for key in await self._store.keys("file-objects/"):
            file = await read_json(self._store, key, StoredFile)
            if file is not None:
                files[file.id.encode()] = file
        for stored in batches:
            for file in stored.final.files if stored.final else ():
                if await self._store.size(file.object_key) is not None:
                    files[file.id.encode()] = file
        missing = {key: file for key, file in files.items() if key.decode() not in known.files}
        self._done.num_files += len(missing)
        await self._publish(self._topics.files, missing)

    async def _publish(self, topic: Topic, values: Mapping[bytes, Facet | StoredFile]) -> None:
        records = []
        for key, value in values.items():
            batch_id = key.decode().partition("/")[0]
            partition = partition_of(batch_id, topic.partitions) if topic is self._topics.batches else 0
            records.append(OutgoingRecord(topic.name, encode(value), partition, key))
        await self._publisher.send_all(records)


def answered_bits(shards: list[Shard], total: int) -> bytes:
    """One bit per line of the batch, lowest bit first: set for those with a completion."""
    bits = bytearray((total + 7) // 8)
    for shard in shards:
        start = shard.number * SHARD_LINES // 8
        bits[start : start + len(shard.bitmap)] = shard.bitmap
    return bytes(bits[: (total + 7) // 8])
