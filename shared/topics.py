"""Which topics exist, what they are keyed by, how they are laid out and what they keep. PURE.

No topic name and no partition rule is written anywhere else.
"""

import zlib
from dataclasses import dataclass, field

from shared.identifiers import pool_of_model
from shared.settings import KafkaSettings

DAY_MS = 24 * 3600 * 1000
# The largest record we take or make; the fetch size of every consumer is twice this (kafka.md 1.2, rule 2).
RECORD_BYTES_MAX = 4 * 1024 * 1024
# Classes of requests, the more urgent first: each has topics of its own, because a log has no order but its own.
INTERACTIVE, BATCH = "interactive", "batch"
REQUEST_CLASSES = (INTERACTIVE, BATCH)
# Lines of one batch that share a key of `completions`, a bitmap and a chain.
SHARD_LINES = 50_000


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it must be on the broker."""

    name: str
    partitions: int
    compacted: bool = False
    retention_ms: int = -1
    extra: dict[str, str] = field(default_factory=dict)
    # Somebody else's, who decides how many partitions it has.
    is_foreign: bool = False

    def config(self) -> dict[str, str]:
        """Broker settings of the topic; set at creation, because altering one resets the others."""
        base = {"max.message.bytes": str(RECORD_BYTES_MAX + 64 * 1024)}
        if self.compacted:
            return base | {"cleanup.policy": "compact"} | self.extra
        return base | {"cleanup.policy": "delete", "retention.ms": str(self.retention_ms)} | self.extra


class Topics:
    """All topics of one installation, by role."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        p = settings.topic_prefix
        self.batches = Topic(f"{p}batches", settings.batches_partitions, compacted=True)
        self.files = Topic(f"{p}files", 1, compacted=True)
        self.workers = Topic(f"{p}workers", 1, compacted=True)
        self.keys = Topic(f"{p}keys", 1, compacted=True)
        self.completions = Topic(f"{p}completions", settings.completions_partitions, retention_ms=3 * DAY_MS)
        self.control = Topic(f"{p}control", 1, retention_ms=DAY_MS)
        self.dlq = Topic(f"{p}dlq", 1, retention_ms=30 * DAY_MS)
        # What outsiders write and read, and what admission let in.
        self.intake = Topic(f"{p}intake", settings.intake_partitions, retention_ms=3 * DAY_MS)
        self.admitted = Topic(f"{p}admitted", settings.intake_partitions, retention_ms=3 * DAY_MS)
        # Openings, lines and ends of batches by topic, apart, because their offsets are held until they are durable.
        self.batch_events = Topic(f"{p}batch-events", settings.intake_partitions, retention_ms=3 * DAY_MS)
        self.results = Topic(f"{p}results", settings.intake_partitions, retention_ms=3 * DAY_MS)
        # Consumer groups; those of workers are called as their topics. Collectors only show in theirs where they are.
        self.admission_group, self.collector_group = f"{p}admission", f"{p}collector"

    def requests(self, model: str, request_class: str = BATCH) -> Topic:
        """`requests.<pool>.<class>`: the request records of one pool of workers."""
        name = f"{self._settings.topic_prefix}requests.{pool_of_model(model)}.{request_class}"
        return Topic(name, self._settings.request_partitions, retention_ms=7 * DAY_MS)

    def group_of(self, topic: Topic) -> str | None:
        """The group that reads a topic and commits, if one does."""
        if topic in (self.intake, self.admitted, self.batch_events):
            return self.admission_group
        if topic == self.completions:
            return self.collector_group
        return topic.name if topic.name.startswith(f"{self._settings.topic_prefix}requests.") else None

    def foreign(self, name: str) -> Topic:
        """A topic that belongs to users, who write requests to it or read answers from it."""
        return Topic(name, self._settings.intake_partitions, retention_ms=3 * DAY_MS, is_foreign=True)

    def all_for(self, models: tuple[str, ...]) -> list[Topic]:
        """Every topic that an installation serving `models` needs."""
        fixed = [self.batches, self.files, self.workers, self.keys, self.completions, self.control, self.dlq]
        fixed += [self.intake, self.admitted, self.batch_events, self.results]
        return fixed + [self.requests(model, name) for model in dict.fromkeys(models) for name in REQUEST_CLASSES]


def shard_of_line(line: int) -> int:
    """Lines (0-based) are grouped into shards of 50,000."""
    return line // SHARD_LINES


def lines_of_shard(shard: int, total: int) -> int:
    """Lines of one shard of a batch of `total` lines."""
    return max(0, min(SHARD_LINES, total - shard * SHARD_LINES))


def num_shards(total: int) -> int:
    """Shards of a batch of `total` lines; an empty one still has shard 0, which closes it."""
    return max(1, -(-total // SHARD_LINES))


def completion_key(batch_id: str, shard: int) -> bytes:
    """Key of every record about one shard of a batch on `completions`."""
    return f"{batch_id}#{shard}".encode()


def facet_key(batch_id: str, facet: str) -> bytes:
    """Key of one facet of a batch on `batches`."""
    return f"{batch_id}/{facet}".encode()


def partition_of(key: bytes | str, partitions: int) -> int:
    """CRC-32 of the key modulo the partition count: `completions` by whole key, `batches` by batch id."""
    data = key.encode() if isinstance(key, str) else key
    return zlib.crc32(data) % partitions


def admitted_key(tenant: str, name: str) -> bytes:
    """Key of an admitted record or batch event: whatever belongs to one request or one batch meets in one partition."""
    return f"{tenant}/{name}".encode()
