"""The transition table, whole; and a fold that does not depend on the order of facets."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Batch

from shared.batch_state import (
    TERMINAL,
    TRANSITIONS,
    BatchEvent,
    BatchStatus,
    BatchView,
    IllegalTransition,
    apply_facet,
    batch_object,
    may_cancel,
    transition,
)
from shared.messages import (
    BatchCancelRequested,
    BatchClosed,
    BatchCreated,
    BatchDispatched,
    Facet,
    LineProblem,
    ShardProgressed,
    Usage,
)

S, E = BatchStatus, BatchEvent
LEGAL = {
    (S.VALIDATING, E.REFUSED): S.FAILED,
    (S.VALIDATING, E.PASSED): S.IN_PROGRESS,
    (S.VALIDATING, E.CANCEL_REQUESTED): S.CANCELLING,
    (S.VALIDATING, E.CLOSED_COMPLETED): S.COMPLETED,
    (S.VALIDATING, E.CLOSED_EXPIRED): S.EXPIRED,
    (S.VALIDATING, E.CLOSED_CANCELLED): S.CANCELLED,
    (S.IN_PROGRESS, E.CANCEL_REQUESTED): S.CANCELLING,
    (S.IN_PROGRESS, E.ANSWERED): S.FINALIZING,
    (S.IN_PROGRESS, E.CLOSED_COMPLETED): S.COMPLETED,
    (S.IN_PROGRESS, E.CLOSED_EXPIRED): S.EXPIRED,
    (S.IN_PROGRESS, E.CLOSED_CANCELLED): S.CANCELLED,
    (S.FINALIZING, E.CANCEL_REQUESTED): S.CANCELLING,
    (S.FINALIZING, E.ANSWERED): S.FINALIZING,
    (S.FINALIZING, E.CLOSED_COMPLETED): S.COMPLETED,
    (S.FINALIZING, E.CLOSED_EXPIRED): S.EXPIRED,
    (S.FINALIZING, E.CLOSED_CANCELLED): S.CANCELLED,
    (S.CANCELLING, E.CANCEL_REQUESTED): S.CANCELLING,
    (S.CANCELLING, E.ANSWERED): S.CANCELLING,
    (S.CANCELLING, E.REFUSED): S.FAILED,
    (S.CANCELLING, E.CLOSED_COMPLETED): S.COMPLETED,
    (S.CANCELLING, E.CLOSED_EXPIRED): S.EXPIRED,
    (S.CANCELLING, E.CLOSED_CANCELLED): S.CANCELLED,
    (S.CANCELLED, E.CANCEL_REQUESTED): S.CANCELLED,
}
CREATED = BatchCreated(
    id="batch_1",
    endpoint="/v1/embeddings",
    input_file_id="file-1",
    completion_window="24h",
    created_at=1000,
    expires_at=1000 + 86400,
    metadata={"a": "b"},
)
FACETS: dict[str, Facet] = {
    "created": CREATED,
    "cancel": BatchCancelRequested(cancelling_at=1010),
    "dispatch": BatchDispatched(in_progress_at=1001, total=10, model="m"),
    "progress/0": ShardProgressed(completed=4, failed=1, usage=Usage(5, 6)),
    "closed": BatchClosed(
        status="cancelled", finalizing_at=1012, closed_at=1013, total=10, completed=5, failed=1, not_run=4
    ),
}


@pytest.mark.parametrize(("status", "event"), list(itertools.product(BatchStatus, BatchEvent)))
def test_every_pair_is_listed_or_refused(status: BatchStatus, event: BatchEvent) -> None:
    if (status, event) in LEGAL:
        assert transition(status, event) is LEGAL[status, event]
    else:
        with pytest.raises(IllegalTransition):
            transition(status, event)


def test_terminal_states_lead_nowhere_else() -> None:
    for status in TERMINAL:
        assert set(TRANSITIONS[status].values()) <= {status}


def test_cancel_is_possible_until_the_end_and_after_a_cancel() -> None:
    assert {status for status in BatchStatus if may_cancel(status)} == set(BatchStatus) - {
        S.FAILED,
        S.COMPLETED,
        S.EXPIRED,
    }


@given(st.permutations(list(FACETS)))
def test_order_of_facets_does_not_matter(order: list[str]) -> None:
    view: BatchView | None = None
    waiting = []
    for name in order:
        folded = apply_facet(view, name, FACETS[name])
        if folded is None:
            waiting.append(name)
        view = folded or view
    for name in waiting:
        view = apply_facet(view, name, FACETS[name])

    assert view is not None
    assert view.status is S.CANCELLED
    assert batch_object(view)["request_counts"] == {"total": 10, "completed": 5, "failed": 1}


def fold(*names: str) -> BatchView:
    view = BatchView(created=CREATED)
    for name in names:
        folded = apply_facet(view, name, FACETS[name])
        assert folded is not None
        view = folded
    return view


@pytest.mark.parametrize(
    ("names", "status"),
    [
        ((), "validating"),
        (("dispatch",), "in_progress"),
        (("dispatch", "progress/0"), "in_progress"),
        (("cancel",), "cancelling"),
        (("dispatch", "cancel"), "cancelling"),
        (("dispatch", "cancel", "closed"), "cancelled"),
        (("closed",), "cancelled"),
    ],
)
def test_status_of(names: tuple[str, ...], status: str) -> None:
    assert fold(*names).status == status


def test_replayed_progress_never_goes_back() -> None:
    view = fold("dispatch", "progress/0")

    view_later = apply_facet(view, "progress/0", ShardProgressed(completed=1, failed=0))

    assert view_later is not None
    assert batch_object(view_later)["request_counts"]["completed"] == 4


def test_all_answered_is_finalizing_with_its_moment() -> None:
    view = apply_facet(fold("dispatch"), "progress/0", ShardProgressed(completed=10, failed=0, answered_at=1050))

    assert view is not None
    assert batch_object(view)["status"] == "finalizing"
    assert batch_object(view)["finalizing_at"] == 1050
    assert batch_object(view)["output_file_id"] is None


def test_failed_batch_shows_its_errors_and_no_counts() -> None:
    problems = (LineProblem(code="invalid_json_line", message="no", line=3),)
    view = apply_facet(fold(), "dispatch", BatchDispatched(failed_at=1005, errors=problems))

    assert view is not None
    shown = batch_object(view)
    assert shown["status"] == "failed"
    assert shown["errors"] == {
        "object": "list",
        "data": [{"code": "invalid_json_line", "message": "no", "param": None, "line": 3}],
    }
    assert shown["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert view.is_terminal


@pytest.mark.parametrize("names", [(), ("dispatch",), ("dispatch", "cancel", "closed")])
def test_object_has_every_key_of_the_sdk_in_the_real_order(names: tuple[str, ...]) -> None:
    shown = batch_object(fold(*names))

    Batch.model_validate(shown, strict=True)
    assert list(shown) == [
        *["id", "object", "endpoint", "model", "errors", "input_file_id", "completion_window", "status"],
        *["output_file_id", "error_file_id", "created_at", "in_progress_at", "expires_at", "finalizing_at"],
        *["completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at", "request_counts", "usage"],
        "metadata",
    ]
    assert set(Batch.model_fields) <= set(shown)
