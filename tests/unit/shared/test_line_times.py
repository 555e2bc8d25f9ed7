"""The header that says when which worker had a line."""

from hypothesis import given
from hypothesis import strategies as st

from shared.line_times import LineTimes, parse_times

MS = st.integers(0, 2**42)


@given(worker=st.text(max_size=40), attempt=st.integers(1, 9), times=st.tuples(MS, MS, MS, MS))
def test_what_is_written_is_read(worker: str, attempt: int, times: tuple[int, int, int, int]) -> None:
    sent, taken, entered, left = times
    found = LineTimes(worker=worker, attempt=attempt, sent_ms=sent, taken_ms=taken, entered_ms=entered, left_ms=left)
    assert parse_times(found.header()) == found


@given(st.text())
def test_anything_else_is_nothing(text: str) -> None:
    found = parse_times(text)
    assert found is None or found.header().count(",") >= 5
