"""Who gets a line: the queue that ends first, like lines together, and nobody more than is worked off soon."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.placement import FLOOR_UNKNOWN, HORIZON_S, RUN_MAX, Queues, WorkerQueue


class Pool:
    """Workers of one partition each that do so many lines a second, looked at four times a second."""

    def __init__(self, *rates: float, window: int = 6) -> None:
        self.queues, self.window = Queues(len(rates)), window
        self.rates, self.now_s = rates, 0.0
        self.ends = dict.fromkeys(range(len(rates)), 0)
        self.finished = dict.fromkeys(range(len(rates)), 0.0)
        self.look()

    def look(self) -> None:
        whole = {partition: int(finished) for partition, finished in self.finished.items()}
        workers = [WorkerQueue(self.window, (partition,)) for partition in self.ends]
        self.queues.measured(self.ends, whole, self.now_s, workers)

    def place(self, num_lines: int, prefix: bytes | None = None) -> int:
        """How many found room."""
        self.queues.begin_round(num_lines)
        for number in range(num_lines):
            partition = self.queues.place(b"%d" % random.getrandbits(64) if prefix is None else prefix)
            if partition is None:
                return number
            self.ends[partition] += 1
        return num_lines

    def pass_time(self, seconds: float = 0.25) -> None:
        self.now_s += seconds
        for partition, rate in enumerate(self.rates):
            self.finished[partition] = min(self.ends[partition], self.finished[partition] + rate * seconds)
        self.look()

    def run(self, num_lines: int) -> float:
        """Seconds until so many lines are finished that come as fast as there is room."""
        left = num_lines
        while left or sum(self.finished.values()) < sum(self.ends.values()):
            left -= self.place(left)
            self.pass_time()
        return self.now_s


def test_few_lines_are_spread_and_many_stay_together_for_a_while() -> None:
    few, many = Queues(4), Queues(4)
    few.begin_round(8)
    spread = Counter(few.place(b"%d" % n) for n in range(8))
    many.begin_round(1000)
    first, second = ([many.place(b"%d" % n) for n in range(start, start + RUN_MAX)] for start in (0, RUN_MAX))

    assert set(spread.values()) == {2}
    assert len(set(first)) == len(set(second)) == 1
    assert first != second


def test_shortest_queue_is_joined() -> None:
    queues = Queues(3)
    queues.measured({0: 10, 1: 30, 2: 20}, {0: 0, 1: 0, 2: 15}, 0.0)
    queues.begin_round(3)

    assert queues.lengths == [10, 30, 5]
    assert [queues.place(b"%d" % n) for n in range(3)] == [2, 2, 2]


def test_nothing_is_placed_beyond_what_may_wait_unless_nobody_measured() -> None:
    queues = Queues(2)
    assert queues.room == 2 * FLOOR_UNKNOWN
    queues.begin_round(1000)
    placed = [queues.place(b"%d" % n) for n in range(200)]

    assert Counter(placed) == {0: FLOOR_UNKNOWN, 1: FLOOR_UNKNOWN, None: 200 - 2 * FLOOR_UNKNOWN}
    assert queues.room == 0
    assert queues.place(b"x", is_bounded=False) is not None


def test_like_lines_go_where_the_others_went_while_that_is_not_longer_than_the_rest() -> None:
    pool = Pool(*[1000.0] * 4, window=40)
    homes: dict[bytes, Counter[int]] = {b"%d" % n: Counter() for n in range(16)}
    for _ in range(40):
        pool.queues.begin_round(64)
        for prefix in list(homes) * 4:
            partition = pool.queues.place(prefix)
            assert partition is not None
            pool.ends[partition] += 1
            homes[prefix][partition] += 1
        pool.pass_time()

    assert all(home.most_common(1)[0][1] >= 0.9 * home.total() for home in homes.values())
    totals = list(pool.ends.values())
    assert max(totals) <= 2 * min(totals), "as even as sixteen of them on four can be, nearly"


def test_one_prompt_for_all_does_not_mean_one_worker_for_all() -> None:
    pool = Pool(*[1.0] * 12)
    pool.place(100, prefix=b"You are a helpful assistant.")

    assert max(pool.queues.lengths) <= 25
    assert sum(1 for length in pool.queues.lengths if length) >= 5


def test_slow_worker_gets_less_and_nobody_waits_for_it() -> None:
    rates = (1000.0, 1000.0, 1000.0, 50.0)
    seconds = Pool(*rates).run(20_000)

    assert seconds <= 20_000 / sum(rates) + HORIZON_S


def test_queue_that_was_empty_when_looked_at_grows_until_it_is_not() -> None:
    pool = Pool(5000.0)
    for _ in range(12):
        pool.place(100_000)
        pool.pass_time()

    assert pool.queues.lengths[0] + pool.queues.room >= 5000.0 * HORIZON_S / 2
    pool.rates = (10.0,)
    for _ in range(80):
        pool.place(100_000)
        pool.pass_time()
    pool.ends = {0: int(pool.finished[0])}
    pool.look()
    assert pool.queues.room <= 10.0 * HORIZON_S * 2


def test_batch_alone_on_a_fast_pool_is_not_held_up_by_looking_seldom() -> None:
    assert Pool(*[500.0] * 12).run(50_000) <= 1.3 * 50_000 / 6000 + 2


@given(st.lists(st.integers(0, 100), min_size=1, max_size=6), st.integers(1, 300), st.integers(0, 20))
def test_lengths_add_up_and_no_queue_is_overfull(begin: list[int], num_lines: int, variety: int) -> None:
    queues = Queues(len(begin))
    queues.measured(dict(enumerate(begin)), dict.fromkeys(range(len(begin)), 0), 0.0)
    room = queues.room
    queues.begin_round(num_lines)
    placed = [queues.place(b"%d" % (n % (variety + 1))) for n in range(num_lines)]

    found = Counter(partition for partition in placed if partition is not None)
    assert found.total() == min(room, num_lines)
    assert queues.lengths == [length + found[partition] for partition, length in enumerate(begin)]
    pairs = zip(queues.lengths, begin, strict=True)
    assert all(length <= max(FLOOR_UNKNOWN, before) for length, before in pairs)


def test_worker_s_partitions_are_one_queue_and_it_may_hold_a_window_and_a_half() -> None:
    queues, nothing = Queues(5), dict.fromkeys(range(5), 0)
    queues.measured(nothing, nothing, 0.0, [WorkerQueue(20, (0, 1, 2)), WorkerQueue(10, (3,))])

    assert queues.room == 30 + 15 + FLOOR_UNKNOWN
    queues.begin_round(1000)
    found = Counter(queues.place(b"%d" % n) for n in range(200))
    assert found[0] + found[1] + found[2] == 30
    assert (found[3], found[4], found[None]) == (15, FLOOR_UNKNOWN, 200 - 45 - FLOOR_UNKNOWN)


@pytest.mark.parametrize("odd", [[WorkerQueue(20, (0, 1)), WorkerQueue(20, (1,))], [WorkerQueue(20, (1, 2))]])
def test_partition_that_two_workers_name_or_that_is_unknown_changes_nothing(odd: list[WorkerQueue]) -> None:
    queues, nothing = Queues(2), dict.fromkeys(range(2), 0)
    queues.measured(nothing, nothing, 0.0, [WorkerQueue(20, (0, 1))])
    queues.measured(nothing, nothing, 0.25, [WorkerQueue(20, (0, 1)), *odd])

    assert queues.room == 30
