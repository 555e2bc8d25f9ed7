"""What is in a segment? PURE codec: the kept lines, then where each one is, then what the segment covers.

    lines, each with its newline │ entries, 21 bytes each │ footer, JSON │ entry bytes u32 │ footer bytes u32 │ magic

An entry is (shard index u32, line u32, kind u8, position u64, length u32), little-endian, in log order. Cancel,
deadline and sealed records are entries too, so that the chain alone rebuilds the ledger. The footer names the SHA-256
of the segment before, which makes the chain tamper-evident.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from shared.error_codes import add_codes
from shared.messages import Usage
from shared.record_headers import CompletionHeaders
from shared.topics import SHARD_LINES, shard_of_line

MAGIC = b"HRSEG\x00\x01\n"
FORMAT_VERSION = 1
_ENTRY = struct.Struct("<IIBQI")
_TRAILER = struct.Struct("<II8s")
TRAILER_BYTES = _TRAILER.size
_KINDS = ("failed", "completed", "cancel", "deadline", "sealed")


class CorruptSegment(ValueError):
    """The bytes are not a segment of this format."""


class BatchInSegment(msgspec.Struct, frozen=True):
    """A batch shard that the segment has entries of, the tokens of those lines, and why some failed."""

    id: str
    shard: int
    total: int
    usage: Usage
    error_codes: dict[str, int] = msgspec.field(default_factory=dict)


class Footer(msgspec.Struct, frozen=True):
    """What a segment covers: offsets [first_offset, next_offset) of one partition."""

    topic: str
    partition: int
    first_offset: int
    next_offset: int
    previous_sha256: str
    batches: tuple[BatchInSegment, ...]
    version: int = FORMAT_VERSION
    written_at_ms: int = 0


class Entry(NamedTuple):
    """A kept record; `position` and `length` are those of its line in the segment, newline included.

    `line` of a record without a line is the first one of the shard that it is about; `position` of a sealed one is the
    number of lines that the batch has in the end.
    """

    batch_id: str
    total: int
    line: int
    kind: str
    position: int
    length: int

    def as_completion(self) -> CompletionHeaders:
        """The record as the ledger saw it, without its tokens, which the footer sums per batch."""
        return CompletionHeaders(
            kind="line" if self.is_line else self.kind,
            batch_id=self.batch_id,
            line=self.line if self.is_line else 0,
            shard=0 if self.is_line else shard_of_line(self.line),
            total=self.total,
            sealed_total=self.position if self.kind == "sealed" else 0,
            succeeded=self.kind == "completed",
        )

    @property
    def is_line(self) -> bool:
        """Whether it is a line, and not a decision about the batch."""
        return self.kind in ("failed", "completed")


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment ready to be created: its bytes, their hash, and the entries that it makes durable."""

    data: bytes
    sha256: str
    footer: Footer
    entries: tuple[Entry, ...]


class SegmentBuilder:
    """Collects kept records until they are worth an object."""

    def __init__(self, topic: str, partition: int, first_offset: int, previous_sha256: str) -> None:
        self._topic, self._partition = topic, partition
        self._first_offset, self._previous = first_offset, previous_sha256
        self._lines: list[bytes] = []
        self._entries: list[Entry] = []
        self._usage: dict[tuple[str, int], Usage] = {}
        self._totals: dict[tuple[str, int], int] = {}
        self._error_codes: dict[tuple[str, int], dict[str, int]] = {}
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, record: CompletionHeaders, value: bytes) -> None:
        """Append a kept record; `value` is its line, empty for a record without one."""
        kind = record.kind if record.kind != "line" else _KINDS[record.succeeded]
        line = record.line if record.kind == "line" else record.shard * SHARD_LINES
        position = record.sealed_total if record.kind == "sealed" else self.num_bytes
        self._entries.append(Entry(record.batch_id, record.total, line, kind, position, len(value)))
        shard_id = record.shard_id
        self._usage[shard_id] = self._usage.get(shard_id, Usage()).plus(record.usage)
        self._totals.setdefault(shard_id, record.total)
        if record.error_code:
            add_codes(self._error_codes.setdefault(shard_id, {}), {record.error_code: 1})
        self._lines.append(value)
        self.num_bytes += len(value)

    def build(self, next_offset: int, written_at_ms: int = 0) -> Segment:
        """The segment that covers everything up to `next_offset`; the time is for people."""
        index = {shard_id: number for number, shard_id in enumerate(self._usage)}
        batches = tuple(
            BatchInSegment(*shard_id, self._totals[shard_id], usage, self._error_codes.get(shard_id, {}))
            for shard_id, usage in self._usage.items()
        )
        footer = Footer(
            self._topic,
            self._partition,
            self._first_offset,
            next_offset,
            self._previous,
            batches,
            written_at_ms=written_at_ms,
        )
        packed = b"".join(
            _ENTRY.pack(index[e.batch_id, shard_of_line(e.line)], e.line, _KINDS.index(e.kind), e.position, e.length)
            for e in self._entries
        )
        tail = msgspec.json.encode(footer)
        data = b"".join([*self._lines, packed, tail, _TRAILER.pack(len(packed), len(tail), MAGIC)])
        return Segment(data, hashlib.sha256(data).hexdigest(), footer, tuple(self._entries))


def tail_bytes(trailer: bytes) -> int:
    """Bytes of entries, footer and trailer together, from the last 16 bytes of a segment."""
    try:
        num_entries, num_footer, magic = _TRAILER.unpack(trailer)
    except struct.error as error:
        raise CorruptSegment(f"trailer: {error}") from None
    if magic != MAGIC:
        raise CorruptSegment(f"magic {magic!r}, expected {MAGIC!r}")
    return int(num_entries) + int(num_footer) + TRAILER_BYTES


def read_tail(tail: bytes) -> tuple[Footer, tuple[Entry, ...]]:
    """Footer and entries from the last `tail_bytes` bytes of a segment; raises CorruptSegment."""
    if len(tail) < TRAILER_BYTES or len(tail) != tail_bytes(tail[-TRAILER_BYTES:]):
        raise CorruptSegment(f"tail of {len(tail)} bytes does not have the length that it states")
    num_entries, _, _ = _TRAILER.unpack(tail[-TRAILER_BYTES:])
    try:
        footer = msgspec.json.decode(tail[num_entries:-TRAILER_BYTES], type=Footer)
        if footer.version != FORMAT_VERSION:
            raise CorruptSegment(f"format {footer.version}, this build reads {FORMAT_VERSION}")
        return footer, tuple(_entries(tail[:num_entries], footer))
    except (msgspec.MsgspecError, struct.error, IndexError) as error:
        raise CorruptSegment(f"tail: {error}") from None


def _entries(packed: bytes, footer: Footer) -> Iterator[Entry]:
    for number, line, kind, position, length in _ENTRY.iter_unpack(packed):
        batch = footer.batches[number]
        yield Entry(batch.id, batch.total, line, _KINDS[kind], position, length)


def flush_due(*, num_bytes: int, age_s: float, closes_batch: bool, max_bytes: int, max_age_s: float) -> bool:
    """Whether what was collected is worth a segment now: it is big, it is old, or a batch waits for it."""
    return closes_batch or num_bytes >= max_bytes or age_s >= max_age_s
