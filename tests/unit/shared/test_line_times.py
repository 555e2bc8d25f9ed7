"""The header that says when which worker had a line."""

from hypothesis import given
from hypothesis import strategies as st

from shared.line_times import LineTimes, parse_times

MS = st.integers(0, 2**42)


@given(
    worker=st.text(max_size=40), attempt=st.integers(1, 9), times=st.tuples(*[MS] * 4, *[st.integers(-1, 2**31)] * 3)
)
def test_what_is_written_is_read(worker: str, attempt: int, times: tuple[int, ...]) -> None:
    sent, fetched, entered, left, queued, prefill, decode = times
    found = LineTimes(
        worker=worker,
        attempt=attempt,
        tries=2,
        redelivered=1,
        sent_ms=sent,
        fetched_ms=fetched,
        entered_ms=entered,
        left_ms=left,
        queued_ms=queued,
        prefill_ms=prefill,
        decode_ms=decode,
    )
    assert parse_times(found.header()) == found


@given(st.text())
def test_anything_else_is_nothing(text: str) -> None:
    found = parse_times(text)
    assert found is None or found.header().count(",") >= 10
