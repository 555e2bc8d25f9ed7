"""The committable offset: never above an unfinished one, never back, kept across rebalances."""

from hypothesis import given
from hypothesis import strategies as st

from services.inference.offset_tracker import OffsetTracker


def test_out_of_order_completions_hold_the_offset_back() -> None:
    tracker = OffsetTracker()
    assert all(tracker.deliver(offset, epoch=1) for offset in (5, 6, 7))

    tracker.finish(7)
    assert tracker.committable_offset == 5
    tracker.finish(5)
    assert tracker.committable_offset == 6
    tracker.finish(6)
    assert tracker.committable_offset == 8


def test_holes_count_as_finished() -> None:
    tracker = OffsetTracker()
    for offset in (10, 14, 15):
        tracker.deliver(offset, epoch=1)

    tracker.finish(10)
    tracker.finish(14)

    assert tracker.committable_offset == 15


def test_partition_that_comes_back_keeps_work_in_flight() -> None:
    tracker = OffsetTracker()
    for offset in (0, 1, 2):
        tracker.deliver(offset, epoch=1)
    tracker.finish(1)

    redelivered = [tracker.deliver(offset, epoch=2) for offset in (0, 1, 2, 3)]

    assert redelivered == [False, False, False, True]
    assert tracker.num_in_flight == 3


def test_partition_that_somebody_else_advanced_is_fast_forwarded() -> None:
    tracker = OffsetTracker()
    for offset in (0, 1, 2):
        tracker.deliver(offset, epoch=1)

    assert tracker.deliver(50, epoch=2)

    assert tracker.committable_offset == 50
    tracker.finish(1)  # its own late completion changes nothing
    assert tracker.committable_offset == 50


def test_unknown_offset_is_ignored() -> None:
    tracker = OffsetTracker()
    tracker.deliver(3, epoch=1)

    tracker.finish(99)

    assert tracker.committable_offset == 3


@given(
    steps=st.lists(st.tuples(st.sampled_from(["deliver", "finish", "rebalance"]), st.integers(0, 40)), max_size=150),
    holes=st.sets(st.integers(0, 60)),
)
def test_committed_is_never_above_the_first_unfinished(steps: list[tuple[str, int]], holes: set[int]) -> None:
    tracker, epoch, position = OffsetTracker(), 0, 0
    unfinished: set[int] = set()
    finished: set[int] = set()
    committed = 0
    for action, number in steps:
        if action == "deliver":
            while position in holes:
                position += 1
            if tracker.deliver(position, epoch):
                assert position not in finished, "done twice"
                unfinished.add(position)
            position += 1
        elif action == "finish" and unfinished:
            offset = sorted(unfinished)[number % len(unfinished)]
            tracker.finish(offset)
            unfinished.discard(offset)
            finished.add(offset)
        elif action == "rebalance":
            epoch, position = epoch + 1, committed
        assert tracker.committable_offset >= committed, "went back"
        committed = tracker.committable_offset
        assert not unfinished or committed <= min(unfinished), "committed an unfinished offset"
    assert tracker.num_in_flight == len(unfinished)
