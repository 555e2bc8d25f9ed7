"""Which partition gets a line, and is there room for one? PURE: measured queues in, partitions out.

Lines join the queue that will be worked off first: the shortest one by the share of it that its worker does in a short
time. What a queue may hold follows what was worked off, so a slow worker gets less, and the rest of a batch stays in
its file, where whoever is free gets it. Lines that begin alike go to the same partition while that is no longer than
the others, so that one worker's prefix cache serves them. Consecutive lines stay together for a while, because a
client and a broker pay by the batch.
"""

import math
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping

# A queue may hold what is worked off in this time.
HORIZON_S = 2.0
# One that was worked off before it was looked at again may hold so much more; a longer one shrinks gradually.
GROWTH, DECAY = 2.0, 0.75
# At least so many windows of the worker behind it, or lines while nothing is known of any worker.
FLOOR_WINDOWS, FLOOR_UNKNOWN = 1.5, 64
# Consecutive lines for one partition.
RUN_MAX = 32
# How much more than its share a queue may get for the sake of like lines.
SLACK = 1.25
# Beginnings that are remembered with their partition, and how much of a line begins it.
HOMES_MAX = 10_000
PREFIX_BYTES = 256


class Queues:
    """The partitions of one pool: unfinished lines in each, and how many there may be."""

    def __init__(self, num_partitions: int) -> None:
        self._lengths = [0] * num_partitions
        # Lines that each got lately, halved at every look, so that even short queues are filled in turn.
        self._recent = [0.0] * num_partitions
        self._finished: dict[int, int] = {}
        self._may_hold = [float(FLOOR_UNKNOWN)] * num_partitions
        self._speeds = [1.0] * num_partitions
        self._measured_at: float | None = None
        self._homes: OrderedDict[int, int] = OrderedDict()
        self._current, self._run_left, self._next = 0, 0, 0
        self._run = RUN_MAX

    @property
    def lengths(self) -> list[int]:
        """Unfinished lines of each partition: as measured, and what was placed since."""
        return list(self._lengths)

    @property
    def may_hold(self) -> list[int]:
        """How many unfinished lines each partition may have."""
        return [int(lines) for lines in self._may_hold]

    @property
    def room(self) -> int:
        """Lines that may be placed now."""
        return sum(max(0, int(may) - length) for may, length in zip(self._may_hold, self._lengths, strict=True))

    def measured(self, ends: Mapping[int, int], finished: Mapping[int, int], now_s: float, floor: int) -> None:
        """Where each partition ends, all that was placed included, and how many of its offsets are finished.

        `floor` = lines that each may hold anyway.
        """
        span_s = now_s - self._measured_at if self._measured_at is not None else 0.0
        for partition, end in ends.items():
            length = max(0, end - finished[partition])
            done = max(0, finished[partition] - self._finished.get(partition, finished[partition]))
            self._may_hold[partition] = self._next_may_hold(partition, done, length, span_s, floor)
            self._lengths[partition] = length
        self._recent = [lines / 2 for lines in self._recent]
        # A queue that is not half full may be as fast as the fastest: nobody knows.
        fastest = max(self._may_hold)
        self._speeds = [
            may_hold if length >= may_hold / 2 else fastest
            for may_hold, length in zip(self._may_hold, self._lengths, strict=True)
        ]
        self._finished |= finished
        self._measured_at = now_s

    def _next_may_hold(self, partition: int, done: int, length: int, span_s: float, floor: int) -> float:
        may_hold = self._may_hold[partition]
        wanted = max(float(floor), done / span_s * HORIZON_S if span_s > 0 else 0.0)
        if done >= may_hold / 2 and length <= may_hold / 4:
            wanted = max(wanted, may_hold * GROWTH)  # it may have stood still: how fast it is is not known
        elif done < may_hold / 2 and length < may_hold / 2:
            wanted = max(wanted, may_hold)  # little was asked of it
        return max(wanted, may_hold * DECAY)

    def begin_round(self, num_lines: int) -> None:
        """So many lines are placed next: few of them are spread, many stay together."""
        self._run = max(1, min(RUN_MAX, num_lines // len(self._lengths)))
        self._run_left = 0

    def place(self, prefix: bytes, *, is_bounded: bool = True) -> int | None:
        """The partition of the next line, or None when all queues are full."""
        key = zlib.crc32(prefix)
        home = self._homes.get(key)
        if home is None or not self._takes_more(home):
            home = self._partition_of_run(is_bounded)
            if home is None:
                return None
            self._homes[key] = home
            if len(self._homes) > HOMES_MAX:
                self._homes.popitem(last=False)
        self._lengths[home] += 1
        self._recent[home] += 1
        return home

    def _takes_more(self, partition: int) -> bool:
        may_hold = self._may_hold[partition]
        if self._lengths[partition] >= may_hold:
            return False
        its_share = sum(self._recent) * self._speeds[partition] / sum(self._speeds)
        return self._recent[partition] <= SLACK * its_share + self._run / 4

    def _partition_of_run(self, is_bounded: bool) -> int | None:
        if self._run_left == 0 or self._lengths[self._current] >= self._may_hold[self._current]:
            shortest = self._shortest(is_bounded)
            if shortest is None:
                return None
            self._current, self._run_left = shortest, self._run
        self._run_left -= 1
        return self._current

    def _shortest(self, is_bounded: bool) -> int | None:
        """The queue that is worked off first; equal ones take turns."""
        size = len(self._lengths)
        best, best_wait = None, (math.inf, math.inf)
        for step in range(size):
            partition = (self._next + step) % size
            may_hold = self._may_hold[partition]
            wait = self._lengths[partition] / may_hold, self._recent[partition] / self._speeds[partition]
            if wait < best_wait and (wait[0] < 1 or not is_bounded):
                best, best_wait = partition, wait
        if best is not None:
            self._next = (best + 1) % size
        return best


def floor_of(windows: Iterable[tuple[int, int]]) -> int:
    """Lines that a partition may hold anyway, from each worker's (lines in its engine, number of partitions)."""
    floors = [math.ceil(FLOOR_WINDOWS * window / partitions) for window, partitions in windows if window and partitions]
    return max(floors, default=FLOOR_UNKNOWN)


def prefix_of(line: bytes, member: bytes) -> bytes:
    """What a line's prompt begins with: some bytes from the member of the body on that holds it. Nothing is parsed."""
    start = line.find(member)
    return line[start : start + PREFIX_BYTES] if start >= 0 else b""
