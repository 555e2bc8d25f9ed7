"""Window arithmetic and prefix order."""

from dataclasses import dataclass

from services.inference.micro_batch import FETCH_MAX, order_by_prefix, records_to_fetch


@dataclass(frozen=True)
class Line:
    body: bytes


def test_only_the_room_in_the_window_is_fetched() -> None:
    assert [records_to_fetch(10, n) for n in (0, 7, 10, 12)] == [10, 3, 0, 0]
    assert records_to_fetch(10_000, 0) == FETCH_MAX


def test_equal_prefixes_stand_together() -> None:
    lines = [Line(b"A..1"), Line(b"B..1"), Line(b"A..2"), Line(b"B..2")]

    assert [line.body for line in order_by_prefix(lines)] == [b"A..1", b"A..2", b"B..1", b"B..2"]
