"""How does a log that forgets get its batches back? SHELL: everything is published again from the object store.

For the in-memory broker, whose log dies with it: finished batches and their files are there again, unfinished ones
begin anew. Only done when asked for, because a store may be shared by several logs.
"""

import msgspec
import structlog

from shared.errors import ObjectNotFound
from shared.kafka import OutgoingRecord, Publisher
from shared.messages import BatchClosed, BatchCreated, Facet, StoredFile, encode
from shared.object_store import ObjectStore, batch_of_manifest, final_key
from shared.topics import Topics, facet_key, partition_of

log = structlog.get_logger(__name__)


async def restore(store: ObjectStore, topics: Topics, publisher: Publisher) -> None:
    """Publish the facets and files that the store's manifests and final records name."""
    num_finished = num_unfinished = 0
    for key in await store.keys("batches/"):
        if (batch_id := batch_of_manifest(key)) is None:
            continue
        created = msgspec.json.decode(await store.read(key), type=BatchCreated)
        records = [_facet(topics, batch_id, "created", created)]
        final = await _final(store, batch_id)
        files = (final.files if final else ()) + ((created.input_file,) if created.input_file else ())
        records += [_file(topics, file) for file in files if await store.size(file.object_key) is not None]
        if final is None:
            num_unfinished += 1
        else:
            num_finished += 1
            records.append(_facet(topics, batch_id, "closed", final))
        await publisher.send_all(records)
    log.info("restored from the store", num_finished=num_finished, num_unfinished=num_unfinished)


async def _final(store: ObjectStore, batch_id: str) -> BatchClosed | None:
    try:
        return msgspec.json.decode(await store.read(final_key(batch_id)), type=BatchClosed)
    except ObjectNotFound:
        return None


def _facet(topics: Topics, batch_id: str, name: str, facet: Facet) -> OutgoingRecord:
    partition = partition_of(batch_id, topics.batches.partitions)
    return OutgoingRecord(topics.batches.name, encode(facet), partition, facet_key(batch_id, name))


def _file(topics: Topics, file: StoredFile) -> OutgoingRecord:
    return OutgoingRecord(topics.files.name, encode(file), 0, file.id.encode())
