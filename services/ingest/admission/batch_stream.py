"""When is a batch whose lines come by topic created, written, rolled and sealed? PURE: what came in, one step out.

Records of one batch come in one order, that of their partition, but what a producer sent to several partitions of the
intake is mixed: lines may come before `batch-open`, and behind `batch-close`. So both are waited for, for a while.
Offsets are those of the partition that all records of the batch are in; `held` is the first whose record is not durable
elsewhere.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

# A batch that nobody opens is created with defaults so long after its first line.
OPEN_GRACE_S = 5.0
# A batch is sealed so long after the last line that came behind its end, and at the latest so long after the end when
# lines are missing that its producer has counted.
CLOSE_QUIET_S, CLOSE_GRACE_S = 2.0, 60.0
# Lines are written when there are so many bytes of them, or the first one is so old.
CHUNK_BYTES, CHUNK_AGE_S = 1024 * 1024, 0.5
# Lines of earlier parts that are known when they come again.
IDS_BEFORE_MAX = 50_000


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What `batch-open` asked for; a batch that nobody opened has the defaults.

    Without an `endpoint` it is the first line's. A part ends with `roll_lines`, or `roll_s` old; 0 = one part.
    """

    endpoint: str = ""
    completion_window: str = "24h"
    window_s: int = 0
    metadata: dict[str, str] | None = None
    output_expires_after_s: int | None = None
    priority: int = 0
    roll_lines: int = 0
    roll_s: int = 0
    traceparent: str | None = None


class Step(StrEnum):
    """What is to be done now."""

    WAIT = "wait"
    # Learn what the parts have that exist.
    LOAD = "load"
    CREATE = "create"
    WRITE = "write"
    # Let the part end and go on with the next one.
    ROLL = "roll"
    SEAL = "seal"
    # The end came from elsewhere: what still waits is too late.
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class WaitingLine:
    """A line that is not in the chain yet. `id_hash` holds within this process only."""

    id_hash: int
    custom_id: str
    value: bytes
    offset: int


@dataclass(slots=True)
class BatchStream:
    """One batch of one tenant, by its name: its newest part."""

    first_seen_s: float
    room: int
    # An earlier owner may have written more than this one knows.
    must_load: bool = False
    options: Options | None = None
    is_created: bool = False
    created_s: float = 0.0
    part: int = 0
    # Of all parts before this one, and of this one.
    num_before: int = 0
    num_written: int = 0
    ids: set[int] = field(default_factory=set)
    # A line that a producer repeats around a roll is known too: the last ones of the parts before, oldest first.
    ids_before: dict[int, None] = field(default_factory=dict)
    waiting: deque[WaitingLine] = field(default_factory=deque)
    waiting_bytes: int = 0
    waits_since_s: float = 0.0
    closed_s: float | None = None
    declared: int | None = None
    last_line_s: float = 0.0
    # Nothing more is taken: sealed, by whomever.
    is_over: bool = False
    control_offset: int | None = None

    @property
    def held(self) -> int | None:
        """The first offset that must not be committed yet; None when all is durable."""
        waiting = self.waiting[0].offset if self.waiting else None
        return min((n for n in (waiting, self.control_offset) if n is not None), default=None)

    @property
    def is_forgettable(self) -> bool:
        """Whether all that there is to know is durable, and nothing is to be done by itself."""
        is_between_parts = self.part > 0 and not self.is_created and self.closed_s is None
        return self.held is None and (self.is_over or is_between_parts)

    @property
    def num_of_all_parts(self) -> int:
        """Lines that came under this name."""
        return self.num_before + self.num_written + len(self.waiting)

    def add(self, line: WaitingLine, now_s: float) -> bool:
        """Take a line in; False for one that came before."""
        if line.id_hash in self.ids or line.id_hash in self.ids_before:
            return False
        self.ids.add(line.id_hash)
        if not self.waiting:
            self.waits_since_s = now_s
        self.waiting.append(line)
        self.waiting_bytes += len(line.value)
        self.last_line_s = now_s
        return True

    def open(self, options: Options, offset: int) -> None:
        """`batch-open` came; the first one counts, and only before the batch was created."""
        if self.options is None and not self.is_created and not self.must_load:
            self.options = options
            self._hold(offset)

    def close(self, declared: int | None, now_s: float, offset: int) -> None:
        """`batch-close` came, perhaps with the number of lines; the first one counts."""
        if self.closed_s is None:
            self.closed_s, self.declared = now_s, declared
            self._hold(offset)

    def created(self, now_s: float) -> None:
        """The batch, or its next part, is durable, and with it what was asked for."""
        self.is_created, self.created_s = True, now_s
        if self.closed_s is None:
            self.control_offset = None

    def told(self) -> None:
        """Others know that it was closed."""
        self.control_offset = None

    def due(self) -> list[WaitingLine]:
        """The lines that are written next: one chunk, and no more than the part may have."""
        lines, size = list[WaitingLine](), 0
        for line in self.waiting:
            if len(lines) == self._lines_max - self.num_written or size >= CHUNK_BYTES:
                break
            lines.append(line)
            size += len(line.value)
        return lines

    def written(self, num_lines: int, now_s: float) -> None:
        """The first so many lines that waited are durable."""
        for _ in range(num_lines):
            self.waiting_bytes -= len(self.waiting.popleft().value)
        self.num_written += num_lines
        self.waits_since_s = now_s

    def loaded(self, ids: Iterable[int], ids_before: Iterable[int], num_written: int) -> None:
        """What this part, and the parts before it, have: lines that came again since then do not wait any more."""
        known, before = set(ids), dict.fromkeys(ids_before)
        self.waiting = deque(x for x in self.waiting if x.id_hash not in known and x.id_hash not in before)
        self.waiting_bytes = sum(len(line.value) for line in self.waiting)
        self.ids, self.ids_before = known | {line.id_hash for line in self.waiting}, before
        self.num_written, self.must_load = num_written, False

    def rolled(self) -> None:
        """The part is sealed; the next one begins with the next line."""
        self.num_before += self.num_written
        self.num_written, self.is_created = 0, False
        self.part += 1
        waiting = {line.id_hash for line in self.waiting}
        for id_hash in self.ids - waiting:
            self.ids_before[id_hash] = None
        while len(self.ids_before) > IDS_BEFORE_MAX:
            del self.ids_before[next(iter(self.ids_before))]
        self.ids = waiting

    def step(self, now_s: float) -> Step:
        """Decide."""
        if self.is_over:
            return Step.WAIT if self.held is None else Step.REFUSE
        if self.must_load:
            return Step.LOAD
        if not self.is_created:
            return self._before_it_is_created(now_s)
        if self._roll_is_due(now_s):
            return Step.ROLL
        if self.waiting:
            return Step.WRITE if self._write_is_due(now_s) else Step.WAIT
        return Step.SEAL if self._is_complete(now_s) else Step.WAIT

    @property
    def _lines_max(self) -> int:
        asked = self.options.roll_lines if self.options else 0
        return min(asked, self.room) if asked else self.room

    def _before_it_is_created(self, now_s: float) -> Step:
        if self.part:  # a part begins with its first line
            return Step.CREATE if self.waiting else Step.SEAL if self._is_complete(now_s) else Step.WAIT
        is_known = self.options is not None or self.closed_s is not None
        return Step.CREATE if is_known or now_s - self.first_seen_s >= OPEN_GRACE_S else Step.WAIT

    def _write_is_due(self, now_s: float) -> bool:
        is_old = now_s - self.waits_since_s >= CHUNK_AGE_S
        return is_old or self.waiting_bytes >= CHUNK_BYTES or self.closed_s is not None

    def _is_complete(self, now_s: float) -> bool:
        if self.closed_s is None:
            return False
        if self.declared is not None and self.num_of_all_parts >= self.declared:
            return True
        waited_s = CLOSE_QUIET_S if self.declared is None else CLOSE_GRACE_S
        return now_s - max(self.closed_s, self.last_line_s) >= waited_s

    def _roll_is_due(self, now_s: float) -> bool:
        options = self.options or Options()
        is_full = self.num_written >= self._lines_max
        is_old = bool(options.roll_s) and self.num_written > 0 and now_s - self.created_s >= options.roll_s
        goes_on = bool(self.waiting) or self.closed_s is None
        return goes_on and (is_full or is_old)

    def _hold(self, offset: int) -> None:
        if self.control_offset is None:
            self.control_offset = offset
