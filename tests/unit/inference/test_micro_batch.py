"""Who enters the engine next: by urgency, then by what is alike; nobody is overtaken for ever."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from services.inference.micro_batch import DEADLINE_STEP_S, MicroBatches, as_they_came


@dataclass(frozen=True)
class Line:
    prompt: bytes
    deadline_s: int = 0


def drain(batches: MicroBatches[Line]) -> list[bytes]:
    found = []
    while (line := batches.pop()) is not None:
        found.append(line.prompt)
    return found


def lines(*prompts: bytes) -> list[Line]:
    return [Line(prompt) for prompt in prompts]


def test_equal_prefixes_stand_together() -> None:
    batches: MicroBatches[Line] = MicroBatches()
    batches.add(lines(b"A..1", b"B..1"))
    batches.add(lines(b"A..2", b"B..2"))

    assert len(batches) == 4
    assert drain(batches) == [b"A..1", b"A..2", b"B..1", b"B..2"]


def test_what_comes_later_does_not_overtake_a_micro_batch_that_is_handed_out() -> None:
    batches: MicroBatches[Line] = MicroBatches()
    batches.add(lines(b"B", b"C"))

    assert (first := batches.pop()) is not None
    assert first.prompt == b"B"
    batches.add(lines(b"A", b"B"))
    assert drain(batches) == [b"C", b"A", b"B"]


def test_urgent_lines_come_first_and_a_second_makes_no_difference() -> None:
    batches: MicroBatches[Line] = MicroBatches()
    batches.add([Line(b"A", 10 * DEADLINE_STEP_S), Line(b"C", DEADLINE_STEP_S), Line(b"B", DEADLINE_STEP_S + 1)])

    assert drain(batches) == [b"B", b"C", b"A"]


def test_order_can_be_left_alone() -> None:
    batches: MicroBatches[Line] = MicroBatches(as_they_came)
    batches.add(lines(b"B", b"A", b"C"))

    assert drain(batches) == [b"B", b"A", b"C"]


@given(st.lists(st.binary(max_size=2)), st.lists(st.binary(max_size=2)), st.integers(0, 5), st.binary(max_size=2))
def test_every_line_comes_out_once(one: list[bytes], two: list[bytes], popped: int, unwanted: bytes) -> None:
    batches: MicroBatches[Line] = MicroBatches()
    batches.add(lines(*one))
    found = [line.prompt for _ in range(popped) if (line := batches.pop()) is not None]
    batches.add(lines(*two))
    removed = [line.prompt for line in batches.remove(lambda line: line.prompt == unwanted)]

    rest = drain(batches)
    assert sorted(found + removed + rest) == sorted(one + two)
    assert unwanted not in rest
