"""Fairness and limits of dispatch."""

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.pacing import Limits, Runnable, Share, shares

LIMITS = Limits(per_batch=100, per_tenant=150, chunk=60)


def batch(name: str, tenant: str = "t", expires_at: int = 0, remaining: int = 1000, outstanding: int = 0) -> Runnable:
    return Runnable(name, tenant, (0, expires_at, name), remaining, outstanding)


def test_earliest_deadline_of_a_tenant_goes_first() -> None:
    assert shares([batch("late", expires_at=2), batch("soon", expires_at=1)], LIMITS, {}) == [Share("soon", 60)]


def test_tenants_take_turns() -> None:
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

    tenants = [by_id[share.batch_id].tenant for share in found]
    assert len(tenants) == len(set(tenants))
    for share in found:
        b = by_id[share.batch_id]
        assert 0 < share.num_lines <= min(LIMITS.chunk, b.remaining, LIMITS.per_batch - b.outstanding)
        assert outstanding[b.tenant] + share.num_lines <= LIMITS.per_tenant
