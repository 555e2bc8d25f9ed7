"""Requests are remembered within a window of time, and of number."""

from services.ingest.admission.seen_requests import SeenRequests


def test_request_is_new_once_in_the_window_and_again_after_it() -> None:
    seen = SeenRequests(window_ms=1_000, num_max=10)

    assert seen.is_new("t", "a", 0)
    assert not seen.is_new("t", "a", 1_000)
    assert seen.is_new("u", "a", 1_000)
    assert seen.is_new("t", "a", 1_001)
    assert not seen.is_new("t", "a", 2_000)


def test_oldest_is_forgotten_when_there_are_too_many() -> None:
    seen = SeenRequests(window_ms=1_000, num_max=2)

    assert [seen.is_new("t", name, 0) for name in "abc"] == [True] * 3
    assert not seen.is_new("t", "c", 1)
    assert seen.is_new("t", "a", 1)
