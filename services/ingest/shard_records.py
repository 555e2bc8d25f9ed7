"""Which records tell the collectors something about a whole batch? PURE: one for each shard, under the shard's key."""

from shared.messages import BatchCreated
from shared.publisher import OutgoingRecord
from shared.record_headers import CompletionHeaders, completion_headers
from shared.topics import Topics, completion_key, num_shards, partition_of


def shard_records(
    topics: Topics, created: BatchCreated, kind: str, total: int, sealed_total: int = 0
) -> list[OutgoingRecord]:
    """Records of this kind (`cancel`, `deadline`, `sealed`) for a batch of `total` lines."""
    topic, records = topics.completions, []
    for shard in range(num_shards(total)):
        key = completion_key(created.id, shard)
        headers = CompletionHeaders(
            kind=kind,
            batch_id=created.id,
            shard=shard,
            total=created.record_total(total),
            sealed_total=sealed_total,
        )
        partition = partition_of(key, topic.partitions)
        records.append(OutgoingRecord(topic.name, None, partition, key, completion_headers(headers)))
    return records
