"""Fairness and limits of dispatch."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.pacing import Limits, Runnable, Share, shares

LIMITS = Limits(per_batch=100, per_tenant=150, chunk=60)


def batch(name: str, tenant: str = "t", expires_at: int = 0, remaining: int = 1000, outstanding: int = 0) -> Runnable:
    return Runnable(name, tenant, (0, expires_at, name), remaining, outstanding)


def test_earliest_deadline_of_a_tenant_goes_first() -> None:
    assert shares([batch("late", expires_at=2), batch("soon", expires_at=1)], LIMITS, {}) == [Share("soon", 60)]


def test_small_batches_of_a_tenant_share_a_round() -> None:
    queue = [batch(str(n), expires_at=n, remaining=25) for n in range(4)]

    assert shares(queue, LIMITS, {}) == [Share("0", 25), Share("1", 25), Share("2", 10)]


def test_every_tenant_has_its_part_of_a_round() -> None:
    found = shares([batch("huge", "a", 1), batch("small", "b", 9, remaining=5)], LIMITS, {})

    assert found == [Share("huge", 60), Share("small", 5)]


def test_a_full_batch_makes_way_for_the_next_of_its_tenant() -> None:
    found = shares([batch("full", expires_at=1, outstanding=100), batch("next", expires_at=2)], LIMITS, {"t": 100})

    assert found == [Share("next", 50)]


def test_a_full_tenant_waits() -> None:
    assert shares([batch("a")], LIMITS, {"t": 150}) == []


@given(
    st.lists(
        st.builds(
            Runnable,
            batch_id=st.uuids().map(str),
            tenant=st.sampled_from("abc"),
            urgency=st.tuples(st.integers(-3, 3), st.integers(0, 9), st.uuids().map(str)),
            remaining=st.integers(0, 500),
            outstanding=st.integers(0, 120),
        )
    )
)
def test_limits_hold(batches: list[Runnable]) -> None:
    outstanding = {t: sum(b.outstanding for b in batches if b.tenant == t) for t in "abc"}
    by_id = {b.batch_id: b for b in batches}

    found = shares(batches, LIMITS, outstanding)

    sent: Counter[str] = Counter()
    for share in found:
        b = by_id[share.batch_id]
        assert 0 < share.num_lines <= min(b.remaining, LIMITS.per_batch - b.outstanding)
        sent[b.tenant] += share.num_lines
    assert len({share.batch_id for share in found}) == len(found)
    for tenant, num_lines in sent.items():
        assert num_lines <= min(LIMITS.chunk, LIMITS.per_tenant - outstanding[tenant])
