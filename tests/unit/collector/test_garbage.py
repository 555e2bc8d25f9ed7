"""Only the oldest segments go, only when all their batches have ended long enough ago, and never the last one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.collector.garbage import NEVER_CREATED, batches_in_question, new_chain_start

CONTENTS = [(0, frozenset({"a"})), (10, frozenset({"a", "b"})), (20, frozenset({"c"})), (30, frozenset({"a"}))]


@pytest.mark.parametrize(
    ("closed_at", "now_s", "expected"),
    [
        ({}, 1000, None),
        ({"b": 1, "c": 1}, 1000, None),
        ({"a": 500}, 1000, 10),
        ({"a": 500, "b": 500}, 1000, 20),
        ({"a": 500, "b": 950}, 1000, 10),
        ({"a": 500, "b": 500, "c": 500}, 1000, 30),
        ({"a": 500, "b": NEVER_CREATED, "c": NEVER_CREATED}, 1000, 30),
    ],
)
def test_new_chain_start(closed_at: dict[str, int], now_s: int, expected: int | None) -> None:
    assert new_chain_start(CONTENTS, closed_at, now_s=now_s, retention_s=100) == expected


def test_batches_are_asked_about_from_the_oldest_segment_on() -> None:
    assert batches_in_question(CONTENTS, {}) == {"a"}
    assert batches_in_question(CONTENTS, {"a"}) == {"b"}
    assert batches_in_question(CONTENTS, {"a", "b", "c"}) == frozenset()
    assert batches_in_question([], {}) == frozenset()


@given(
    contents=st.lists(st.frozensets(st.sampled_from("abcdef"), max_size=3), max_size=12),
    closed=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 200)),
)
def test_no_segment_goes_that_an_open_batch_needs(contents: list[frozenset[str]], closed: dict[str, int]) -> None:
    chain = [(10 * n, batches) for n, batches in enumerate(contents)]

    start = new_chain_start(chain, closed, now_s=200, retention_s=50)

    gone = [batches for first, batches in chain if start is not None and first < start]
    assert all(closed.get(batch, 1000) <= 150 for batches in gone for batch in batches)
    assert not chain or start is None or start <= chain[-1][0]
