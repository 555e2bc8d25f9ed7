"""Ranges of a file (RFC 9110, section 14)."""

import pytest

from services.ingest.api.byte_range import ByteRange, Unsatisfiable, parse_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("bytes=0-0", (0, 0)),
        ("bytes=2-4", (2, 4)),
        ("bytes=2-", (2, 9)),
        ("bytes=-3", (7, 9)),
        ("bytes=-300", (0, 9)),
        ("bytes = 8 - 100", (8, 9)),
        ("bytes=4-2", None),  # not understood, so the whole
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=-", None),
        ("bytes=x-y", None),
    ],
)
def test_range_of_ten_bytes(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == (ByteRange(*expected, 10) if expected else None)


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=11-12", 10), ("bytes=-0", 10), ("bytes=-1", 0)]
)
def test_no_byte_is_in_the_range(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, size)


def test_header_of_the_answer() -> None:
    part = ByteRange(2, 4, 10)

    assert (part.content_range, part.num_bytes) == ("bytes 2-4/10", 3)
