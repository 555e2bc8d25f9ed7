"""When is a batch whose lines come by topic created, written on, rolled and sealed? PURE: what came in, one step out.

Records of one batch come in one order, that of their partition, but what a producer sent to several partitions of the
intake is mixed: lines may come before `batch-open`, and behind `batch-close`. So both are waited for, for a while.
"""

from dataclasses import dataclass, field
from enum import StrEnum

# A batch that nobody opens is created with defaults so long after its first line.
OPEN_GRACE_S = 5.0
# A batch is sealed so long after the last line that came behind its end, and at the latest so long after the end when
# lines are missing that its producer has counted.
CLOSE_QUIET_S, CLOSE_GRACE_S = 2.0, 60.0
# Lines are written when there are so many bytes of them, or the first one is so old.
CHUNK_BYTES, CHUNK_AGE_S = 1024 * 1024, 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """What `batch-open` asked for; a batch that nobody opened has the defaults."""

    endpoint: str | None = None
    window_s: int | None = None
    metadata: dict[str, str] | None = None
    # A part ends with so many lines, or so old; 0 = the batch has one part.
    roll_lines: int = 0
    roll_s: int = 0

    @property
    def rolls(self) -> bool:
        """Whether the batch is a row of parts."""
        return self.roll_lines > 0 or self.roll_s > 0


class Step(StrEnum):
    """What is to be done now."""

    WAIT = "wait"
    CREATE = "create"
    WRITE = "write"
    # Let the part end and go on with the next one.
    ROLL = "roll"
    SEAL = "seal"


@dataclass(slots=True)
class BatchStream:
    """One batch of one tenant, by its name. Ids are hashes that hold within this process."""

    first_seen_s: float
    room: int
    options: Options | None = None
    is_created: bool = False
    created_s: float = 0.0
    # Of all parts, and of this one.
    num_before: int = 0
    num_written: int = 0
    ids: set[int] = field(default_factory=set)
    # A line that a producer repeats around a roll is known too.
    ids_before: set[int] = field(default_factory=set)
    waiting: list[bytes] = field(default_factory=list)
    waiting_bytes: int = 0
    waits_since_s: float = 0.0
    closed_s: float | None = None
    declared: int | None = None
    last_line_s: float = 0.0

    @property
    def num_lines(self) -> int:
        """Lines of this part."""
        return self.num_written + len(self.waiting)

    @property
    def num_of_all_parts(self) -> int:
        """Lines that came under this name."""
        return self.num_before + self.num_lines

    def add(self, custom_id: str, line: bytes, now_s: float) -> bool:
        """Take a line in; False for one that came before."""
        key = hash(custom_id)
        if key in self.ids or key in self.ids_before:
            return False
        self.ids.add(key)
        if not self.waiting:
            self.waits_since_s = now_s
        self.waiting.append(line)
        self.waiting_bytes += len(line)
        self.last_line_s = now_s
        return True

    def open(self, options: Options) -> None:
        """`batch-open` came; the first one counts, and only before the batch was created."""
        if self.options is None and not self.is_created:
            self.options = options

    def close(self, declared: int | None, now_s: float) -> None:
        """`batch-close` came, perhaps with the number of lines; the first one counts."""
        if self.closed_s is None:
            self.closed_s, self.declared = now_s, declared

    def created(self, now_s: float) -> None:
        """The batch, or its next part, is durable."""
        self.is_created, self.created_s = True, now_s

    def written(self) -> list[bytes]:
        """What waited is durable; the lines that were."""
        lines, self.waiting, self.waiting_bytes = self.waiting, [], 0
        self.num_written += len(lines)
        return lines

    def rolled(self) -> None:
        """The part is sealed; the next one begins with the next line."""
        self.num_before += self.num_written
        self.num_written, self.is_created = 0, False
        self.ids_before, self.ids = self.ids, set()

    def step(self, now_s: float) -> Step:
        """Decide."""
        if not self.is_created:
            return self._before_it_is_created(now_s)
        if self._write_is_due(now_s):
            return Step.WRITE
        if self.waiting:
            return Step.WAIT
        if self._is_over(now_s):
            return Step.SEAL
        return Step.ROLL if self._roll_is_due(now_s) else Step.WAIT

    def _before_it_is_created(self, now_s: float) -> Step:
        is_known = self.options is not None or self.closed_s is not None or self.num_before > 0
        if self.num_before and not self.waiting and self.closed_s is None:
            return Step.WAIT  # a part begins with its first line
        if self.num_before and not self.waiting:
            return Step.SEAL
        return Step.CREATE if is_known or now_s - self.first_seen_s >= OPEN_GRACE_S else Step.WAIT

    def _write_is_due(self, now_s: float) -> bool:
        if not self.waiting:
            return False
        is_old = now_s - self.waits_since_s >= CHUNK_AGE_S
        return is_old or self.waiting_bytes >= CHUNK_BYTES or self.closed_s is not None

    def _is_over(self, now_s: float) -> bool:
        if self.closed_s is None:
            return False
        if self.declared is not None and self.num_of_all_parts >= self.declared:
            return True
        waited_s = CLOSE_QUIET_S if self.declared is None else CLOSE_GRACE_S
        return now_s - max(self.closed_s, self.last_line_s) >= waited_s

    def _roll_is_due(self, now_s: float) -> bool:
        options = self.options or Options()
        is_full = self.num_written >= (min(options.roll_lines, self.room) if options.roll_lines else self.room)
        is_old = bool(options.roll_s) and self.num_written > 0 and now_s - self.created_s >= options.roll_s
        return is_full or is_old
