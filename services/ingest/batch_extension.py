"""What does Headrace tell of a batch beyond OpenAI's object? PURE: folded batches in, `x_headrace` out."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from services.ingest.pacing import urgency
from shared.batch_state import BatchView

TOP_ERRORS = 5


def extension(view: BatchView, open_batches: Iterable[BatchView], now_s: int) -> dict[str, Any]:
    """The `x_headrace` member; every key is present, what is unknown is null."""
    created, dispatch = view.created, view.dispatch
    rate = _lines_per_second(view, now_s)
    not_run = view.closed.not_run if view.closed else 0
    return {
        "priority": created.priority,
        "queue_position": _queue_position(view, open_batches),
        "dispatched": dispatch.next_line if dispatch else 0,
        "lines_per_second": rate,
        "estimated_completion_at": _estimated_completion_at(view, rate, now_s),
        "expired": not_run if view.closed and view.closed.status == "expired" else 0,
        "cancelled": not_run if view.closed and view.closed.status == "cancelled" else 0,
        "top_errors": _top_errors(view),
        "retry_of": created.retry_of,
    }


def _queue_position(view: BatchView, open_batches: Iterable[BatchView]) -> int | None:
    """How many batches of the tenant come before it with lines that are not dispatched; null when it has none left."""
    if not _has_backlog(view):
        return None
    mine = urgency(view.created)
    return sum(
        other.created.tenant == view.created.tenant and _has_backlog(other) and urgency(other.created) < mine
        for other in open_batches
    )


def _has_backlog(view: BatchView) -> bool:
    if view.is_terminal or view.cancel is not None:
        return False
    return view.dispatch is None or view.dispatch.next_line < view.dispatch.total


def _lines_per_second(view: BatchView, now_s: int) -> float | None:
    """Answered lines over the time since the first was dispatched; null before the first answer."""
    if view.dispatch is None or view.dispatch.in_progress_at is None or not view.answered:
        return None
    until_s = view.closed.finalizing_at if view.closed and view.closed.finalizing_at else now_s
    return round(view.answered / max(1, until_s - view.dispatch.in_progress_at), 2)


def _estimated_completion_at(view: BatchView, rate: float | None, now_s: int) -> int | None:
    if not rate or view.is_terminal or view.dispatch is None:
        return None
    return now_s + round((view.dispatch.total - view.answered) / rate)


def _top_errors(view: BatchView) -> list[dict[str, Any]]:
    codes: Counter[str] = Counter()
    for progress in view.progress.values():
        codes.update(progress.error_codes)
    if view.closed is not None:
        codes = Counter(view.closed.error_codes)
    return [{"code": code, "count": count} for code, count in codes.most_common(TOP_ERRORS)]
