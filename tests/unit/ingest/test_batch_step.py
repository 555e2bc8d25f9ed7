"""What the dispatcher does about a batch, by state and time."""

import pytest

from services.ingest.batch_step import WAIT, Dispatch, RecordEnd, Step, Validate, next_step
from shared.batch_state import BatchView
from shared.messages import BatchCancelRequested, BatchClosed, BatchCreated, BatchDispatched

CREATED = BatchCreated(id="b", endpoint="e", input_file_id="f", completion_window="24h", created_at=0, expires_at=100)
RUNNING = BatchDispatched(in_progress_at=1, total=10, model="m")
CANCEL = BatchCancelRequested(cancelling_at=5)
CLOSED = BatchClosed(status="completed", finalizing_at=1, closed_at=2, total=10, completed=10, failed=0, not_run=0)


@pytest.mark.parametrize(
    ("view", "now_s", "next_line", "expected"),
    [
        (BatchView(CREATED), 1, 0, Validate()),
        (BatchView(CREATED, dispatch=RUNNING), 1, 0, Dispatch()),
        (BatchView(CREATED, dispatch=RUNNING), 1, 10, WAIT),
        (BatchView(CREATED, dispatch=RUNNING), 99, 9, Dispatch()),
        (BatchView(CREATED, dispatch=RUNNING), 100, 9, RecordEnd("deadline")),
        (BatchView(CREATED, dispatch=RUNNING), 100, 10, RecordEnd("deadline")),
        (BatchView(CREATED), 100, 0, RecordEnd("deadline")),
        (BatchView(CREATED, dispatch=BatchDispatched(in_progress_at=1)), 1, 0, RecordEnd("deadline")),
        (BatchView(CREATED, cancel=CANCEL, dispatch=BatchDispatched(in_progress_at=1)), 1, 0, RecordEnd("cancel")),
        (BatchView(CREATED, cancel=CANCEL), 1, 0, RecordEnd("cancel")),
        (BatchView(CREATED, cancel=CANCEL, dispatch=RUNNING), 1, 3, RecordEnd("cancel")),
        (BatchView(CREATED, cancel=CANCEL, dispatch=RUNNING, closed=CLOSED), 1, 3, WAIT),
        (BatchView(CREATED, dispatch=BatchDispatched(failed_at=3)), 200, 0, WAIT),
    ],
)
def test_next_step(view: BatchView, now_s: int, next_line: int, expected: Step) -> None:
    assert next_step(view, now_s=now_s, next_line=next_line, end_recorded=False) == expected


def test_an_end_is_recorded_once() -> None:
    view = BatchView(CREATED, cancel=CANCEL, dispatch=RUNNING)

    assert next_step(view, now_s=1, next_line=3, end_recorded=True) == WAIT
