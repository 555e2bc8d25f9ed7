"""Requests per minute: a bucket that fills up evenly."""

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.rate_limiter import RateLimiter


def test_a_minute_s_worth_at_once_then_one_by_one() -> None:
    rates = RateLimiter()

    assert [rates.take("a", 3, 0.0) for _ in range(3)] == [None, None, None]
    assert rates.take("a", 3, 0.0) == 20
    assert rates.take("b", 3, 0.0) is None, "others have buckets of their own"
    assert rates.take("a", 3, 19.0) == 1
    assert rates.take("a", 3, 20.1) is None


@given(st.integers(1, 50), st.lists(st.floats(0, 30), max_size=200))
def test_no_minute_has_more_than_twice_what_is_allowed(per_minute: int, pauses: list[float]) -> None:
    rates, now_s, taken = RateLimiter(), 0.0, []
    for pause in pauses:
        now_s += pause
        wait_s = rates.take("a", per_minute, now_s)
        if wait_s is None:
            taken.append(now_s)
        else:
            assert 1 <= wait_s <= 60
    for start in taken:
        assert sum(start <= at < start + 60 for at in taken) <= 2 * per_minute
