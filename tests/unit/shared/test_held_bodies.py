"""Bodies are read once, when somebody asks, or sooner where too much would be held."""

import weakref
from functools import partial

import pytest

from shared.held_bodies import HELD_BYTES_MAX, HELD_MAX, HeldBodies, Unread


class _Body:
    """Bytes cannot be referred to weakly."""


def hold(bodies: HeldBodies, seen: list[int], number: int, num_bytes: int) -> Unread[int]:
    def read() -> int:
        seen.append(number)
        return 10 * number

    return bodies.hold(read, num_bytes)


def test_read_when_asked_and_only_once() -> None:
    seen = list[int]()
    unread = hold(HeldBodies(), seen, 4, 100)
    assert seen == []
    assert [unread.value(), unread.value()] == [40, 40]
    assert seen == [4]


def test_what_was_read_is_not_held() -> None:
    bodies, body = HeldBodies(), _Body()
    known, unread = weakref.ref(body), bodies.hold(partial(id, body), 100)
    del body
    assert known() is not None
    unread.value()
    assert known() is None


@pytest.mark.parametrize(
    ("num_bytes", "num_held"),
    [(1, HELD_MAX), (HELD_BYTES_MAX // 4, 4), (HELD_BYTES_MAX + 1, 0)],
)
def test_oldest_are_read_beyond_the_limits(num_bytes: int, num_held: int) -> None:
    seen, bodies = list[int](), HeldBodies()
    for number in range(HELD_MAX + 10):
        hold(bodies, seen, number, num_bytes)
    assert seen == list(range(HELD_MAX + 10 - num_held))
