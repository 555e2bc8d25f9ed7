"""What does Headrace tell of a batch beyond OpenAI's object? PURE: folded batches in, `x_headrace` out."""

from collections import Counter
from collections.abc import Collection
from typing import Any

from shared.batch_state import BatchView

TOP_ERRORS = 5


def extension(view: BatchView, queue_position: int | None, now_s: int, alive: Collection[str]) -> dict[str, Any]:
    """The `x_headrace` member; every key is present, what is unknown is null.

    `queue_position` is how many of the tenant's batches have lines that are dispatched before this one's. Four
    are those of a batch by topic: the lines that came under its name so far, all parts together, and how many its
    producer said there are. `alive` are the models that live workers serve.
    """
    created, growth = view.created, view.created.growth
    rate = _lines_per_second(view, now_s)
    not_run = view.closed.not_run if view.closed else 0
    return {
        "priority": created.priority,
        "queue_position": queue_position,
        "dispatched": _dispatched(view),
        "lines_per_second": rate,
        "estimated_completion_at": estimated_completion_at(view, now_s),
        "expired": not_run if view.closed and view.closed.status == "expired" else 0,
        "cancelled": not_run if view.closed and view.closed.status == "cancelled" else 0,
        "top_errors": _top_errors(view),
        "retry_of": created.retry_of,
        "name": growth.name if growth else None,
        "part": growth.part if growth else None,
        "received": growth.lines_before + view.num_lines if growth else None,
        "declared": view.close.declared if view.close else None,
        "without_workers": without_workers(view, alive),
    }


def without_workers(view: BatchView, alive: Collection[str]) -> list[str]:
    """Models of an open batch that no live worker serves: its lines wait for one."""
    if view.is_terminal or view.dispatch is None:
        return []
    return [model for model in view.dispatch.pool_models if model not in alive]


def _dispatched(view: BatchView) -> int:
    """Lines sent to workers; at the end those that were answered, which the terminal record tells for good."""
    if view.closed is not None:
        return _answered(view)
    return view.dispatch.num_dispatched if view.dispatch else 0


def _answered(view: BatchView) -> int:
    return view.closed.completed + view.closed.failed if view.closed else view.answered


def _lines_per_second(view: BatchView, now_s: int) -> float | None:
    """Answered lines over the time since the first was dispatched; null before the first answer."""
    answered = _answered(view)
    if view.dispatch is None or view.dispatch.in_progress_at is None or not answered:
        return None
    until_s = view.closed.finalizing_at if view.closed and view.closed.finalizing_at else now_s
    return round(answered / max(1, until_s - view.dispatch.in_progress_at), 2)


def estimated_completion_at(view: BatchView, now_s: int) -> int | None:
    """The Unix second at which an open batch ends at its speed so far; None before its first answer."""
    rate = _lines_per_second(view, now_s)
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
