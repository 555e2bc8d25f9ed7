"""A batch by topic: what may come in any order, and when each step is due."""

import pytest

from services.ingest.admission.batch_stream import (
    CHUNK_AGE_S,
    CHUNK_BYTES,
    CLOSE_GRACE_S,
    CLOSE_QUIET_S,
    OPEN_GRACE_S,
    BatchStream,
    Options,
    Step,
)


def stream(options: Options | None = None, *, is_created: bool = False, room: int = 1_000) -> BatchStream:
    found = BatchStream(first_seen_s=0.0, room=room)
    if options is not None:
        found.open(options)
    if is_created:
        found.created(0.0)
    return found


def test_open_batch_is_created_at_once_and_another_one_after_a_while() -> None:
    assert stream(Options()).step(0.0) == Step.CREATE

    unopened = stream()
    unopened.add("a", b"{}", 0.0)
    assert unopened.step(OPEN_GRACE_S / 2) == Step.WAIT
    assert unopened.step(OPEN_GRACE_S) == Step.CREATE


def test_open_that_comes_behind_the_first_lines_still_counts() -> None:
    found = stream()
    found.add("a", b"{}", 0.0)
    found.open(Options(metadata={"k": "v"}))
    found.open(Options(metadata={"k": "other"}))

    assert found.options == Options(metadata={"k": "v"})
    assert found.step(0.1) == Step.CREATE
    found.created(0.1)
    found.open(Options())
    assert found.options == Options(metadata={"k": "v"})


def test_line_that_comes_again_is_the_same_one() -> None:
    found = stream(Options(roll_lines=1), is_created=True)

    assert found.add("a", b"{}", 0.0)
    assert not found.add("a", b"{ }", 0.0)
    found.written()
    found.rolled()
    assert not found.add("a", b"{}", 0.0), "around a roll too"
    assert found.add("b", b"{}", 0.0)


def test_lines_are_written_when_there_are_enough_or_they_are_old() -> None:
    found = stream(Options(), is_created=True)
    found.add("a", b"x", 1.0)

    assert found.step(1.0) == Step.WAIT
    assert found.step(1.0 + CHUNK_AGE_S) == Step.WRITE
    found.add("b", b"x" * CHUNK_BYTES, 1.0)
    assert found.step(1.0) == Step.WRITE
    assert found.written() == [b"x", b"x" * CHUNK_BYTES]
    assert (found.num_lines, found.waiting_bytes) == (2, 0)
    assert found.step(9.0) == Step.WAIT


def test_end_without_a_count_waits_until_it_is_quiet() -> None:
    found = stream(Options(), is_created=True)
    found.close(None, 10.0)

    assert found.step(10.0 + CLOSE_QUIET_S / 2) == Step.WAIT
    found.add("late", b"{}", 11.0)
    assert found.step(11.0) == Step.WRITE
    found.written()
    assert found.step(10.0 + CLOSE_QUIET_S) == Step.WAIT
    assert found.step(11.0 + CLOSE_QUIET_S) == Step.SEAL


def test_end_with_a_count_is_reached_at_once_or_given_up() -> None:
    found = stream(Options(), is_created=True)
    found.add("a", b"{}", 0.0)
    found.close(2, 0.0)
    found.close(1, 0.0)
    assert found.step(0.0) == Step.WRITE
    found.written()

    assert found.step(CLOSE_GRACE_S - 1) == Step.WAIT
    assert found.step(CLOSE_GRACE_S) == Step.SEAL
    found.add("b", b"{}", 1.0)
    found.written()
    assert found.step(1.0) == Step.SEAL
    assert found.declared == 2


@pytest.mark.parametrize(
    ("options", "room", "now_s"), [(Options(roll_lines=2), 9, 0.0), (Options(roll_s=60), 9, 60.0), (Options(), 2, 0.0)]
)
def test_part_ends_by_lines_by_age_or_when_it_is_full(options: Options, room: int, now_s: float) -> None:
    found = stream(options, is_created=True, room=room)
    for name in "ab":
        found.add(name, b"{}", 0.0)
    found.written()

    assert found.step(now_s) == Step.ROLL
    found.rolled()
    assert found.step(1e9) == Step.WAIT, "the next part begins with its first line"
    found.add("c", b"{}", now_s)
    assert found.step(now_s) == Step.CREATE
    assert found.num_of_all_parts == 3


def test_part_without_lines_does_not_roll_and_the_end_may_follow_a_roll() -> None:
    assert stream(Options(roll_s=60), is_created=True).step(1e9) == Step.WAIT

    found = stream(Options(roll_lines=1), is_created=True)
    found.add("a", b"{}", 0.0)
    found.written()
    found.rolled()
    found.close(1, 0.0)
    assert found.step(0.0) == Step.SEAL
