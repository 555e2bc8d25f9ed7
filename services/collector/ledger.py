"""Is a completion the first of its line, and when is a batch closed? PURE: records in log order, verdicts out.

One bitmap per batch shard; the first completion of a line wins, whatever its content. A batch closes when its
bitmap is full, or at a cancel or deadline record: what lies before is in the files, what lies after is not. One that
grows while it runs has room for `total` lines; a sealed record says how many it has in the end, and until then it is
not full. Every replay of the same log gives the same verdicts (invariants V1, V5).
"""

from dataclasses import dataclass, field

from shared.error_codes import add_codes
from shared.messages import Usage
from shared.record_headers import CompletionHeaders
from shared.topics import SHARD_LINES, lines_of_shard

ShardId = tuple[str, int]

COMPLETED, CANCELLED, EXPIRED = "completed", "cancelled", "expired"
_HOW = {"cancel": CANCELLED, "deadline": EXPIRED}


@dataclass(frozen=True, slots=True)
class Kept:
    """The line is new: it goes into the next segment. `closes` when it was the last one missing."""

    closes: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """A cancel or deadline record that decides; it goes into the next segment too."""

    how: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A repetition, or too late; counted and forgotten."""

    reason: str


Verdict = Kept | Closed | Dropped


@dataclass(slots=True)
class Shard:
    """Counts and bitmap of one shard of a batch.

    `total` is the batch's as its records say it, `sealed_total` what a sealed record made of it, `num_lines` this
    shard's.
    """

    batch_id: str
    number: int
    total: int
    completed: int = 0
    failed: int = 0
    usage: Usage = field(default_factory=Usage)
    error_codes: dict[str, int] = field(default_factory=dict)
    how_closed: str | None = None
    sealed_total: int | None = None
    bitmap: bytearray = field(default_factory=bytearray)

    @property
    def num_lines(self) -> int:
        """Lines of this shard, or those that it has room for."""
        return lines_of_shard(self.number, self.batch_total)

    @property
    def batch_total(self) -> int:
        """Lines of the batch, or those that it has room for."""
        return self.total if self.sealed_total is None else self.sealed_total

    @property
    def num_answered(self) -> int:
        """Lines with a completion."""
        return self.completed + self.failed

    def has(self, line: int) -> bool:
        """Whether the line (0-based, in the batch) has its completion."""
        index = line - self.number * SHARD_LINES
        return bool(self.bitmap[index >> 3] & (1 << (index & 7)))

    def missing(self) -> list[int]:
        """Lines (0-based, in the batch) without a completion, in order."""
        first = self.number * SHARD_LINES
        return [line for line in range(first, first + self.num_lines) if not self.has(line)]

    def mark(self, line: int) -> None:
        """Set the line's bit."""
        index = line - self.number * SHARD_LINES
        self.bitmap[index >> 3] |= 1 << (index & 7)


class Ledger:
    """All shards of one partition of the completions log."""

    def __init__(self) -> None:
        self.shards: dict[ShardId, Shard] = {}

    def apply(self, record: CompletionHeaders) -> Verdict:
        """Decide about the next record of the log."""
        shard = self._shard(record)
        if shard.how_closed is not None:
            return Dropped("after_close")
        if record.kind == "sealed":
            return self._seal(shard, record)
        if record.kind != "line":
            shard.how_closed = _HOW[record.kind]
            return Closed(shard.how_closed)
        if record.total != shard.total:
            return Dropped("another_total")  # nobody of ours writes that
        if shard.has(record.line):
            return Dropped("duplicate")
        shard.mark(record.line)
        if record.succeeded:
            shard.completed += 1
        else:
            shard.failed += 1
            if record.error_code:  # those that a chain tells are in its footers
                add_codes(shard.error_codes, {record.error_code: 1})
        shard.usage = shard.usage.plus(record.usage)
        closes = shard.num_answered == shard.num_lines
        if closes:
            shard.how_closed = COMPLETED
        return Kept(closes)

    @staticmethod
    def _seal(shard: Shard, record: CompletionHeaders) -> Verdict:
        if shard.sealed_total is not None or record.total != shard.total:
            return Dropped("sealed")
        shard.sealed_total = record.sealed_total
        closes = shard.num_answered >= shard.num_lines
        if closes:
            shard.how_closed = COMPLETED
        return Kept(closes)

    def _shard(self, record: CompletionHeaders) -> Shard:
        shard = self.shards.get(record.shard_id)
        if shard is None:
            shard = self.shards[record.shard_id] = self.new_shard(record.shard_id, record.total)
        return shard

    @staticmethod
    def new_shard(shard_id: ShardId, total: int) -> Shard:
        """A shard of which nothing is answered."""
        shard = Shard(*shard_id, total)
        shard.bitmap = bytearray((shard.num_lines + 7) // 8)
        return shard
