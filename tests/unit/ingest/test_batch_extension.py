"""What `x_headrace` says of a batch."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.backlog import Backlog, has_backlog
from services.ingest.batch_extension import extension
from services.ingest.pacing import urgency
from shared.batch_state import BatchView
from shared.messages import BatchCancelRequested, BatchClosed, BatchCreated, BatchDispatched, ShardProgressed


def created(batch_id: str, **changes: Any) -> BatchCreated:
    base: dict[str, Any] = {"id": batch_id, "endpoint": "e", "input_file_id": "f", "completion_window": "24h"}
    return BatchCreated(**(base | {"created_at": 0, "expires_at": 1000} | changes))


def running(batch_id: str, next_line: int, answered: int = 0, **changes: Any) -> BatchView:
    return BatchView(
        created(batch_id, **changes),
        dispatch=BatchDispatched(in_progress_at=100, total=100, model="m", next_line=next_line),
        progress={"0": ShardProgressed(completed=answered, failed=0)} if answered else {},
    )


def test_rate_and_estimate_come_with_the_first_answer() -> None:
    fresh, half = extension(running("a", 10), 0, 150, ()), extension(running("a", 60, 50), None, 150, ())

    assert (fresh["lines_per_second"], fresh["estimated_completion_at"]) == (None, None)
    assert (half["lines_per_second"], half["estimated_completion_at"], half["dispatched"]) == (1.0, 200, 60)


def test_queue_position_counts_the_tenant_s_more_urgent_backlogs() -> None:
    mine = running("b", 0)
    others = [
        running("a", 50),  # the same deadline, an earlier id
        running("c", 0),
        running("d", 0, priority=1),
        running("e", 100),  # all of it is dispatched
        running("f", 0, tenant="other", priority=9),
        BatchView(created("g", expires_at=1), cancel=BatchCancelRequested(cancelling_at=1)),
        BatchView(created("h", expires_at=999)),
        mine,
    ]

    backlog = Backlog()
    for view in others:
        backlog.note(view)

    assert backlog.position(mine) == 3
    assert backlog.position(running("e", 100)) is None
    backlog.note(running("a", 100))
    backlog.note(running("a", 100))
    assert backlog.position(mine) == 2
    assert extension(mine, backlog.position(mine), 100, ())["queue_position"] == 2


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab"), st.integers(0, 100)), max_size=60))
def test_backlog_is_what_sorting_all_of_them_would_say(changes: list[tuple[int, str, int]]) -> None:
    backlog, now = Backlog(), dict[str, BatchView]()
    for number, tenant, next_line in changes:
        view = running(f"{tenant}{number}", next_line, tenant=tenant, priority=number % 3)
        backlog.note(view)
        now[view.created.id] = view
    for view in now.values():
        waiting = [v for v in now.values() if v.created.tenant == view.created.tenant and has_backlog(v)]
        expected = sum(urgency(other.created) < urgency(view.created) for other in waiting)
        assert backlog.position(view) == (expected if has_backlog(view) else None)


def test_end_tells_what_did_not_run_and_why_lines_failed() -> None:
    closed = BatchClosed(
        status="expired",
        finalizing_at=200,
        closed_at=201,
        total=100,
        completed=50,
        failed=9,
        not_run=41,
        error_codes={"b": 2, "a": 7},
    )
    view = BatchView(created("a"), dispatch=running("a", 100).dispatch, closed=closed)

    found = extension(view, None, 999, ())

    assert (found["expired"], found["cancelled"], found["queue_position"]) == (41, 0, None)
    assert found["top_errors"] == [{"code": "a", "count": 7}, {"code": "b", "count": 2}]
    assert found["estimated_completion_at"] is None
