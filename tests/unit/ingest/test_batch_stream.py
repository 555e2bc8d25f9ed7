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
    WaitingLine,
)


def stream(options: Options | None = None, *, is_created: bool = False, room: int = 1_000) -> BatchStream:
    found = BatchStream(first_seen_s=0.0, room=room)
    if options is not None:
        found.open(options, 0)
    if is_created:
        found.created(0.0)
    return found


def add(found: BatchStream, custom_id: str, value: bytes = b"{}", *, at: float = 0.0, offset: int = 1) -> bool:
    return found.add(WaitingLine(hash(custom_id), custom_id, value, offset), at)


def write(found: BatchStream, now_s: float = 0.0) -> list[bytes]:
    lines = found.due()
    found.written(len(lines), now_s)
    return [line.value for line in lines]


def test_open_batch_is_created_at_once_and_another_one_after_a_while() -> None:
    assert stream(Options()).step(0.0) == Step.CREATE

    unopened = stream()
    add(unopened, "a")
    assert unopened.step(OPEN_GRACE_S / 2) == Step.WAIT
    assert unopened.step(OPEN_GRACE_S) == Step.CREATE


def test_open_that_comes_behind_the_first_lines_still_counts() -> None:
    found = stream()
    add(found, "a")
    found.open(Options(metadata={"k": "v"}), 2)
    found.open(Options(metadata={"k": "other"}), 3)

    assert found.options == Options(metadata={"k": "v"})
    assert found.step(0.1) == Step.CREATE
    found.created(0.1)
    found.open(Options(), 4)
    assert found.options == Options(metadata={"k": "v"})


def test_line_that_comes_again_is_the_same_one() -> None:
    found = stream(Options(roll_lines=1), is_created=True)

    assert add(found, "a")
    assert not add(found, "a", b"{ }")
    write(found)
    found.rolled()
    assert not add(found, "a"), "around a roll too"
    assert add(found, "b")


def test_lines_are_written_when_there_are_enough_or_they_are_old() -> None:
    found = stream(Options(), is_created=True)
    add(found, "a", b"x", at=1.0)

    assert found.step(1.0) == Step.WAIT
    assert found.step(1.0 + CHUNK_AGE_S) == Step.WRITE
    add(found, "b", b"x" * CHUNK_BYTES, at=1.0)
    add(found, "c", b"y", at=1.0)
    assert found.step(1.0) == Step.WRITE
    assert write(found) == [b"x", b"x" * CHUNK_BYTES], "a chunk has an end"
    assert write(found) == [b"y"]
    assert (found.num_written, found.waiting_bytes) == (3, 0)
    assert found.step(9.0) == Step.WAIT


def test_offsets_are_held_until_what_they_say_is_durable() -> None:
    found = stream()
    assert found.held is None
    add(found, "a", offset=7)
    found.open(Options(), 8)
    add(found, "b", offset=9)
    assert found.held == 7
    found.created(0.0)
    assert found.held == 7
    found.written(1, 0.0)
    assert found.held == 9
    found.close(None, 0.0, 11)
    write(found)
    assert found.held == 11, "its end is not known to others"
    found.told()
    assert found.held is None


def test_end_without_a_count_waits_until_it_is_quiet() -> None:
    found = stream(Options(), is_created=True)
    found.close(None, 10.0, 1)

    assert found.step(10.0 + CLOSE_QUIET_S / 2) == Step.WAIT
    add(found, "late", at=11.0)
    assert found.step(11.0) == Step.WRITE
    write(found)
    assert found.step(10.0 + CLOSE_QUIET_S) == Step.WAIT
    assert found.step(11.0 + CLOSE_QUIET_S) == Step.SEAL


def test_end_with_a_count_is_reached_at_once_or_given_up() -> None:
    found = stream(Options(), is_created=True)
    add(found, "a")
    found.close(2, 0.0, 2)
    found.close(1, 0.0, 3)
    assert found.step(0.0) == Step.WRITE
    write(found)

    assert found.step(CLOSE_GRACE_S - 1) == Step.WAIT
    assert found.step(CLOSE_GRACE_S) == Step.SEAL
    add(found, "b", at=1.0)
    write(found)
    assert found.step(1.0) == Step.SEAL
    assert found.declared == 2


@pytest.mark.parametrize(
    ("options", "room", "now_s"), [(Options(roll_lines=2), 9, 0.0), (Options(roll_s=60), 9, 60.0), (Options(), 2, 0.0)]
)
def test_part_ends_by_lines_by_age_or_when_it_is_full(options: Options, room: int, now_s: float) -> None:
    found = stream(options, is_created=True, room=room)
    for name in "ab":
        add(found, name)
    write(found)

    assert found.step(now_s) == Step.ROLL
    found.rolled()
    assert found.step(1e9) == Step.WAIT, "the next part begins with its first line"
    add(found, "c")
    assert found.step(now_s) == Step.CREATE
    assert found.num_of_all_parts == 3


def test_part_takes_no_more_lines_than_it_may_have() -> None:
    found = stream(Options(roll_lines=2), is_created=True)
    for name in "abc":
        add(found, name, name.encode())

    assert write(found, 1.0) == [b"a", b"b"]
    assert found.step(1.0) == Step.ROLL
    found.rolled()
    assert not add(found, "c"), "it waits for the next part"
    found.created(1.0)
    assert write(found) == [b"c"]


def test_part_without_lines_does_not_roll_and_the_end_may_follow_a_roll() -> None:
    assert stream(Options(roll_s=60), is_created=True).step(1e9) == Step.WAIT

    found = stream(Options(roll_lines=1), is_created=True)
    add(found, "a")
    write(found)
    found.rolled()
    assert found.is_forgettable
    found.close(1, 0.0, 2)
    assert found.step(0.0) == Step.SEAL
    assert not found.is_forgettable


def test_full_part_of_a_batch_that_was_closed_is_its_last() -> None:
    found = stream(Options(roll_lines=1), is_created=True)
    add(found, "a")
    found.close(1, 0.0, 2)
    write(found)
    assert found.step(0.0) == Step.SEAL


def test_lines_that_an_earlier_owner_wrote_do_not_wait_again() -> None:
    found = stream(is_created=True)
    found.must_load = True
    for offset, name in enumerate("abcd"):
        add(found, name, offset=offset)
    assert found.step(9.0) == Step.LOAD

    found.loaded({hash("a"), hash("c")}, [hash("b")], 2)
    assert found.held == 3
    assert (found.num_written, [line.custom_id for line in found.waiting]) == (2, ["d"])
    assert not any(add(found, name) for name in "abcd")


def test_what_comes_after_the_end_is_refused() -> None:
    found = stream(is_created=True)
    found.is_over = True
    assert found.step(0.0) == Step.WAIT
    assert found.is_forgettable
    add(found, "late")
    assert found.step(0.0) == Step.REFUSE
    assert not found.is_forgettable
