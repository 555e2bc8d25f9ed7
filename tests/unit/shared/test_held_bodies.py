"""Bodies are read once, when spans are exported, or sooner where too much would be held."""

import weakref
from functools import partial

import pytest
from opentelemetry.trace import SpanKind

from shared.held_bodies import HELD_BYTES_MAX, HELD_MAX, HeldBodies
from shared.record_spans import EndedSpan, MakeSpans, begin_span

SPAN = EndedSpan(begin_span("s", SpanKind.INTERNAL, dict), {}, None, 1)


class _Body:
    """Bytes cannot be referred to weakly."""


def hold(bodies: HeldBodies, seen: list[int], number: int, num_bytes: int) -> MakeSpans:
    def make() -> list[EndedSpan]:
        seen.append(number)
        return [SPAN]

    return bodies.hold(make, num_bytes)


def test_read_when_asked() -> None:
    seen = list[int]()
    make = hold(HeldBodies(), seen, 4, 100)
    assert seen == []
    assert list(make()) == [SPAN]
    assert seen == [4]


def test_bodies_are_let_go_of() -> None:
    bodies, body = HeldBodies(), _Body()
    known, make = weakref.ref(body), bodies.hold(partial(lambda _: (SPAN,), body), 100)
    del body
    assert known() is not None
    make()
    assert known() is None


@pytest.mark.parametrize(
    ("num_bytes", "num_held"),
    [(1, HELD_MAX), (HELD_BYTES_MAX // 4, 4), (HELD_BYTES_MAX + 1, 0)],
)
def test_oldest_are_read_beyond_the_limits(num_bytes: int, num_held: int) -> None:
    seen, bodies, num_lines = list[int](), HeldBodies(), HELD_MAX + 10
    makes = [hold(bodies, seen, number, num_bytes) for number in range(num_lines)]
    assert seen == list(range(num_lines - num_held))
    assert [span for make in makes for span in make()] == [SPAN] * num_lines, "and are exported all the same"
    assert seen == list(range(num_lines)), "each once"


def test_spans_that_cannot_be_made_harm_nobody_else() -> None:
    def fail() -> list[EndedSpan]:
        raise ValueError("of one line")

    seen, bodies = list[int](), HeldBodies()
    failing = bodies.hold(fail, HELD_BYTES_MAX + 1)
    assert list(failing()) == []
    assert list(hold(bodies, seen, 1, 10)()) == [SPAN]
