"""The committable offset: never above an unfinished one, never back, kept across rebalances."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.offset_tracker import OffsetTracker
from services.inference.suspicion import CONDEMN_AFTER_DEATHS_ALONE, group_size
from shared.partition_note import (
    NOTE_CHARS_MAX,
    PartitionNote,
    decode_note,
    encode_note,
    finished_bits,
    finished_offsets,
)


def test_out_of_order_completions_hold_the_offset_back() -> None:
    tracker = OffsetTracker()
    tracker.take_over(5, None, epoch=1, window=8)
    assert all(tracker.deliver(offset) for offset in (5, 6, 7))

    tracker.finish(7)
    assert tracker.committable_offset == 5
    tracker.finish(5)
    assert tracker.committable_offset == 6
    tracker.finish(6)
    assert tracker.committable_offset == 8


def test_holes_count_as_finished() -> None:
    tracker = OffsetTracker()
    for offset in (10, 14, 15):
        tracker.deliver(offset)

    tracker.finish(10)
    tracker.finish(14)

    assert tracker.committable_offset == 15


def test_partition_that_comes_back_keeps_work_in_flight() -> None:
    tracker = OffsetTracker()
    for offset in (0, 1, 2):
        tracker.deliver(offset)
    tracker.finish(1)

    tracker.take_over(0, None, epoch=2, window=8)
    redelivered = [tracker.deliver(offset) for offset in (0, 1, 2, 3)]

    assert redelivered == [False, False, False, True]
    assert tracker.num_in_flight == 3


def test_partition_that_somebody_else_advanced_is_fast_forwarded() -> None:
    tracker = OffsetTracker()
    for offset in (0, 1, 2):
        tracker.deliver(offset)

    tracker.take_over(50, None, epoch=2, window=8)
    assert tracker.deliver(50)

    assert tracker.committable_offset == 50
    tracker.finish(1)  # its own late completion changes nothing
    assert tracker.committable_offset == 50


def test_unknown_offset_is_ignored() -> None:
    tracker = OffsetTracker()
    tracker.deliver(0)

    tracker.finish(99)

    assert tracker.committable_offset == 0


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
            if tracker.deliver(position):
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
            tracker.take_over(committed, tracker.note(held=False), epoch, window=8)
        assert tracker.committable_offset >= committed, "went back"
        committed = tracker.committable_offset
        assert not unfinished or committed <= min(unfinished), "committed an unfinished offset"
    assert tracker.num_in_flight == len(unfinished)


def successor(tracker: OffsetTracker, *, clean: bool = False, **trial: Any) -> OffsetTracker:
    """The tracker of the next owner, after the last commit of this one."""
    note = decode_note(encode_note(tracker.note(held=not clean, **trial)))
    heir = OffsetTracker()
    heir.take_over(tracker.committable_offset, note, epoch=1, window=4)
    return heir


def test_what_another_owner_finished_is_not_done_again() -> None:
    tracker = OffsetTracker()
    for offset in range(10):
        tracker.deliver(offset)
    for offset in (0, 3, 4, 9):
        tracker.finish(offset)

    heir = successor(tracker)

    assert [offset for offset in range(1, 12) if heir.deliver(offset)] == [1, 2, 5, 6, 7, 8, 10, 11]


def test_first_death_casts_suspicion_second_sets_apart_and_survivors_clear_it() -> None:
    tracker = OffsetTracker()
    for offset in range(3):
        tracker.deliver(offset)

    first = successor(tracker)
    assert (first.is_suspicious, first.num_suspects) == (True, 0)
    for offset in range(3):
        first.deliver(offset)
    second = successor(first)
    assert second.num_suspects == 3
    for offset in range(3):
        second.deliver(offset)
        second.finish(offset)

    assert (second.is_suspicious, second.num_suspects) == (False, 0)


def test_record_that_dies_alone_three_times_is_condemned_and_its_neighbours_are_not() -> None:
    tracker = OffsetTracker()
    for offset in range(3):
        tracker.deliver(offset)
    once = successor(tracker)
    for offset in range(3):
        once.deliver(offset)
    twice = successor(once)
    for offset in range(3):
        twice.deliver(offset)
    twice.finish(0)

    heir = twice
    for _ in range(CONDEMN_AFTER_DEATHS_ALONE):
        assert not heir.is_condemned(1), "it may have been killed from outside"
        assert heir.num_suspects > 0
        heir = successor(heir, trial=[1], is_alone=True)

    assert [heir.is_condemned(offset) for offset in range(3)] == [False, True, False]
    assert heir.num_suspects == 0
    assert successor(heir).is_condemned(1), "until it is finished"


def test_record_that_survives_alone_is_not_blamed_for_deaths_of_others() -> None:
    tracker = OffsetTracker()
    for offset in range(2):
        tracker.deliver(offset)
    heir = successor(successor(tracker))
    for trial in (0, 0, 1, 1):  # the first one finishes at last
        heir.deliver(0)
        heir.deliver(1)
        if trial:
            heir.finish(0)
        heir = successor(heir, trial=[trial], is_alone=True)
        assert not any(map(heir.is_condemned, (0, 1)))
    heir.deliver(1)
    heir.finish(1)
    assert not heir.is_suspicious and not heir.note(held=True).died_alone


def test_owner_that_let_go_is_not_counted_as_dead() -> None:
    tracker = OffsetTracker()
    tracker.deliver(0)

    assert not successor(tracker, clean=True).is_suspicious


def test_death_beside_a_trial_elsewhere_clears_this_partition() -> None:
    tracker = OffsetTracker()
    tracker.deliver(0)
    once = successor(tracker)
    once.deliver(0)
    twice = successor(once)
    twice.deliver(0)
    assert twice.num_suspects == 1

    assert not successor(twice).is_suspicious


@given(finished=st.sets(st.integers(0, 30_000), max_size=400), base=st.integers(0, 10_000))
def test_note_fits_into_metadata_and_survives(finished: set[int], base: int) -> None:
    note = PartitionNote(held=True, deaths=1, handed_out_to=40_000, finished=finished_bits(finished, base))

    text = encode_note(note)

    assert len(text) <= NOTE_CHARS_MAX
    read = decode_note(text)
    assert read is not None
    assert read.handed_out_to == 40_000
    assert finished_offsets(read.finished, base) in ({o for o in finished if o >= base}, set())


@pytest.mark.parametrize("text", [None, "", "no base 64!", "aGVsbG8="])
def test_foreign_metadata_is_no_note(text: str | None) -> None:
    assert decode_note(text) is None


@pytest.mark.parametrize(("suspects", "size"), [(1, 1), (16, 1), (17, 2), (384, 24)])
def test_suspects_run_in_sixteenths(suspects: int, size: int) -> None:
    assert group_size(suspects) == size
