"""Which partition gets a line, and is there room for one? PURE: measured queues in, partitions out.

A worker's queue is what lies unfinished in its partitions. Lines join the queue that will be worked off first; what a
queue may hold follows how fast it was worked off, so a slow worker gets less, and the rest of a batch stays in its
file, where whoever is free gets it. Lines that begin alike go to the same worker while it gets no more than its share,
so that one prefix cache serves them. Consecutive lines stay together for a while, because a client and a
broker pay by the batch.
"""

import math
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# A queue may hold what is worked off in this time.
HORIZON_S = 2.0
# Speeds are means over about this time, because a worker turns from one partition to the next.
SPEED_MEAN_S = 2.0
# A queue that was worked off before it was looked at again may hold so much more.
GROWTH = 2.0
# Beside what its speed says: windows of its worker, or lines of a partition of which no worker is known.
FLOOR_WINDOWS, FLOOR_UNKNOWN = 1.5, 64
# Consecutive lines for one partition.
RUN_MAX = 32
# For the sake of like lines a queue may get so much more than its share, and be longer than the shortest by this part
# of what it may hold.
SLACK, LONGER_BY = 1.25, 0.1
# Beginnings that are remembered with a partition of their worker, and how much of a line begins it.
HOMES_MAX = 10_000
PREFIX_BYTES = 256


@dataclass(frozen=True, slots=True)
class WorkerQueue:
    """The partitions of one live worker, and lines in its engine at most."""

    window: int
    partitions: tuple[int, ...]


@dataclass(slots=True)
class _Queue:
    """What lies in front of one worker, or in a partition without one."""

    partitions: tuple[int, ...]
    may_hold: float
    length: int = 0
    # Lines that it got lately, halved at every look, so that even short queues are filled in turn.
    recent: float = 0.0
    weight: float = 1.0
    # Its partition that gets the next lines, and how many of them.
    current: int = 0
    run_left: int = 0

    @property
    def wait(self) -> tuple[float, float]:
        """How long a line would wait in it, beside the others."""
        return self.length / self.may_hold, self.recent / self.weight


class Queues:
    """The queues of one pool."""

    def __init__(self, num_partitions: int) -> None:
        self._lengths = [0] * num_partitions
        self._rates = [0.0] * num_partitions
        self._finished: dict[int, int] = {}
        self._measured_at: float | None = None
        self._queues = [_Queue((partition,), FLOOR_UNKNOWN) for partition in range(num_partitions)]
        self._queue_of = list(self._queues)
        self._homes: OrderedDict[int, int] = OrderedDict()
        self._current: _Queue | None = None
        self._like_last: _Queue | None = None
        self._last_key: int | None = None
        self._run, self._run_left, self._turn = RUN_MAX, 0, 0

    @property
    def lengths(self) -> list[int]:
        """Unfinished lines of each partition: as measured, and what was placed since."""
        return list(self._lengths)

    @property
    def room(self) -> int:
        """Lines that may be placed now."""
        return sum(max(0, int(queue.may_hold) - queue.length) for queue in self._queues)

    def measured(
        self, ends: Mapping[int, int], finished: Mapping[int, int], now_s: float, workers: Sequence[WorkerQueue] = ()
    ) -> None:
        """Where each partition ends, all that was placed included, how many of its offsets are finished, and whose."""
        span_s = now_s - self._measured_at if self._measured_at is not None else 0.0
        done = [max(0, finished[p] - self._finished.get(p, finished[p])) for p in range(len(self._lengths))]
        self._lengths = [max(0, ends[p] - finished[p]) for p in range(len(self._lengths))]
        if span_s > 0:
            for partition, num in enumerate(done):
                self._learn(partition, num / span_s, newest=1 - math.exp(-span_s / SPEED_MEAN_S))
        self._regroup(workers)
        for queue in self._queues:
            queue.length = sum(self._lengths[p] for p in queue.partitions)
            self._allow(queue, sum(done[p] for p in queue.partitions), _floor(queue, workers))
        self._weigh()
        self._finished, self._measured_at = dict(finished), now_s

    def begin_round(self, num_lines: int) -> None:
        """So many lines are placed next: few of them are spread, many stay together."""
        self._run = max(1, min(RUN_MAX, num_lines // len(self._lengths)))
        self._current = self._like_last = None
        for queue in self._queues:
            queue.run_left = 0

    def place(self, prefix: bytes, *, is_bounded: bool = True) -> int | None:
        """The partition of the next line, or None when all queues are full."""
        key, queue = zlib.crc32(prefix), self._like_last
        if key != self._last_key or queue is None or not queue.run_left or queue.length >= queue.may_hold:
            queue = self._like_last = self._queue_for(key, is_bounded)
            self._last_key = key
            if queue is None:
                return None
        partition = self._partition_of_run(queue)
        self._lengths[partition] += 1
        queue.length += 1
        queue.recent += 1
        return partition

    def _queue_for(self, key: int, is_bounded: bool) -> _Queue | None:
        """Where the lines that begin alike are, while it takes more of them."""
        home = self._homes.get(key)
        if home is not None and self._takes_more(self._queue_of[home]):
            return self._queue_of[home]
        queue = self._queue_of_run(is_bounded)
        if queue is not None:
            self._homes[key] = queue.partitions[0]
            if len(self._homes) > HOMES_MAX:
                self._homes.popitem(last=False)
        return queue

    def _learn(self, partition: int, seen: float, newest: float) -> None:
        """A partition that ran empty says only how fast it is at least."""
        rate = self._rates[partition]
        self._rates[partition] = rate + newest * (seen - rate) if self._lengths[partition] else max(rate, seen)

    def _regroup(self, workers: Sequence[WorkerQueue]) -> None:
        """One queue for each worker, and one for each partition that none of them has."""
        groups = {worker.partitions for worker in workers if worker.partitions}
        owned = [partition for group in groups for partition in group]
        if len(set(owned)) < len(owned) or not set(owned) <= set(range(len(self._lengths))):
            return  # seen in the middle of a rebalance, or of a topic that was given more partitions
        groups |= {(partition,) for partition in range(len(self._lengths)) if partition not in owned}
        if groups == {queue.partitions for queue in self._queues}:
            return
        self._queues = [_Queue(group, FLOOR_UNKNOWN) for group in sorted(groups)]
        self._current = self._like_last = None
        by_partition = {partition: queue for queue in self._queues for partition in queue.partitions}
        self._queue_of = [by_partition[partition] for partition in range(len(self._lengths))]

    def _allow(self, queue: _Queue, done: int, floor: float) -> None:
        wanted = floor + sum(self._rates[p] for p in queue.partitions) * HORIZON_S
        # It may have stood still: how fast it is is not known.
        was_short = done >= queue.may_hold / 2 and queue.length <= queue.may_hold / 4
        queue.may_hold = max(wanted, queue.may_hold * GROWTH) if was_short else wanted

    def _weigh(self) -> None:
        """A queue that is not half full may be as fast as the fastest: nobody knows."""
        fastest = max(queue.may_hold for queue in self._queues)
        for queue in self._queues:
            queue.recent /= 2
            queue.weight = queue.may_hold if queue.length >= queue.may_hold / 2 else fastest

    def _takes_more(self, queue: _Queue) -> bool:
        shortest = min(other.length / other.may_hold for other in self._queues)
        if queue.length >= queue.may_hold * min(1.0, shortest + LONGER_BY):
            return False
        recent = sum(other.recent for other in self._queues)
        its_share = recent * queue.weight / sum(other.weight for other in self._queues)
        return queue.recent <= SLACK * its_share + self._run / 4

    def _queue_of_run(self, is_bounded: bool) -> _Queue | None:
        """The queue that is worked off first gets a run of lines; equal ones take turns."""
        queue = self._current
        if queue is not None and self._run_left and queue.length < queue.may_hold:
            self._run_left -= 1
            return queue
        self._turn += 1
        num = len(self._queues)
        in_turn = [self._queues[(self._turn + n) % num] for n in range(num)]
        open_ones = (other for other in in_turn if other.length < other.may_hold or not is_bounded)
        self._current = min(open_ones, key=lambda other: other.wait, default=None)
        self._run_left = self._run - 1
        return self._current

    def _partition_of_run(self, queue: _Queue) -> int:
        """The shortest partition of a queue gets a run of lines; equal ones take turns."""
        if queue.run_left == 0:
            self._turn += 1
            size = len(queue.partitions)
            in_turn = [queue.partitions[(self._turn + n) % size] for n in range(size)]
            queue.current = min(in_turn, key=lambda partition: self._lengths[partition])
            queue.run_left = self._run
        queue.run_left -= 1
        return queue.current


def _floor(queue: _Queue, workers: Sequence[WorkerQueue]) -> float:
    windows = [worker.window for worker in workers if worker.partitions == queue.partitions and worker.window]
    return max(windows) * FLOOR_WINDOWS if windows else FLOOR_UNKNOWN * len(queue.partitions)
