"""What state is a batch in, and how does it look on the wire? PURE: facets in, one OpenAI Batch object out.

    validating ──refused──> failed
        │ └─────passed────> in_progress ──answered──> finalizing ──closed──> completed, expired
        │                        │                        │
        └────────cancel──────────┴─────────cancel─────────┴─> cancelling ──closed──> cancelled, completed, expired

A batch can also expire straight from validating or in_progress.

`transition` is the only place where a change of state is decided. A cancel that comes after the last
completion in the log loses: the batch ends as completed, from cancelling.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, assert_never

from shared.messages import (
    BatchCancelRequested,
    BatchClosed,
    BatchCloseRequested,
    BatchCreated,
    BatchDispatched,
    BatchReceived,
    BatchSealed,
    Facet,
    LineProblem,
    ShardProgressed,
    ShardRedriven,
    Usage,
)

# Of a batch whose producer counted other lines than came.
COUNT_MISMATCH_CODE = "count_mismatch"


class BatchStatus(StrEnum):
    """The eight statuses of OpenAI's Batch object."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class BatchEvent(StrEnum):
    """What can happen to a batch."""

    REFUSED = "refused"
    PASSED = "passed"
    CANCEL_REQUESTED = "cancel_requested"
    ANSWERED = "answered"
    CLOSED_COMPLETED = "closed_completed"
    CLOSED_EXPIRED = "closed_expired"
    CLOSED_CANCELLED = "closed_cancelled"


TERMINAL = frozenset({BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})

_S, _E = BatchStatus, BatchEvent
_CLOSINGS = {
    _E.CLOSED_COMPLETED: _S.COMPLETED,
    _E.CLOSED_EXPIRED: _S.EXPIRED,
    _E.CLOSED_CANCELLED: _S.CANCELLED,
}
TRANSITIONS: dict[BatchStatus, dict[BatchEvent, BatchStatus]] = {
    # A deadline or a cancel may come before the file is validated. Completed follows in a replay, when compaction
    # has left only a dispatch facet that was written after the closing one.
    _S.VALIDATING: {
        _E.REFUSED: _S.FAILED,
        _E.PASSED: _S.IN_PROGRESS,
        _E.CANCEL_REQUESTED: _S.CANCELLING,
    }
    | _CLOSINGS,
    _S.IN_PROGRESS: {_E.CANCEL_REQUESTED: _S.CANCELLING, _E.ANSWERED: _S.FINALIZING} | _CLOSINGS,
    _S.FINALIZING: {_E.CANCEL_REQUESTED: _S.CANCELLING, _E.ANSWERED: _S.FINALIZING} | _CLOSINGS,
    # Repeating the wish changes nothing; a refused file ends the batch as failed although it was cancelled.
    _S.CANCELLING: {
        _E.CANCEL_REQUESTED: _S.CANCELLING,
        _E.ANSWERED: _S.CANCELLING,
        _E.REFUSED: _S.FAILED,
    }
    | _CLOSINGS,
    _S.FAILED: {},
    _S.COMPLETED: {},
    _S.EXPIRED: {},
    _S.CANCELLED: {_E.CANCEL_REQUESTED: _S.CANCELLED},
}


class IllegalTransition(ValueError):
    """This event cannot happen in this state."""


def transition(status: BatchStatus, event: BatchEvent) -> BatchStatus:
    """The next state; raises IllegalTransition for a pair that the table does not list."""
    try:
        return TRANSITIONS[status][event]
    except KeyError:
        raise IllegalTransition(f"{event} cannot happen to a batch that is {status}") from None


def may_cancel(status: BatchStatus) -> bool:
    """Whether a cancel call is answered with 200 (and not with 409)."""
    return BatchEvent.CANCEL_REQUESTED in TRANSITIONS[status]


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch folded from its facets; `progress` holds the highest counts seen of each shard."""

    created: BatchCreated
    cancel: BatchCancelRequested | None = None
    received: BatchReceived | None = None
    close: BatchCloseRequested | None = None
    sealed: BatchSealed | None = None
    dispatch: BatchDispatched | None = None
    progress: dict[str, ShardProgressed] = field(default_factory=dict)
    redriven: dict[str, ShardRedriven] = field(default_factory=dict)
    closed: BatchClosed | None = None

    @property
    def status(self) -> BatchStatus:
        """The state that the facets add up to, whatever the order in which they arrived."""
        status = BatchStatus.VALIDATING
        for event in self._events():
            status = transition(status, event)
        return status

    @property
    def is_terminal(self) -> bool:
        """No further change is possible."""
        return self.closed is not None or (self.dispatch is not None and self.dispatch.failed_at is not None)

    @property
    def _is_full(self) -> bool:
        """Every line has its answer, and no more lines can come."""
        return self.dispatch is not None and not self.dispatch.growing and self.answered >= self.dispatch.total > 0

    @property
    def num_lines(self) -> int:
        """Lines that it has, as far as that is known."""
        told = (self.dispatch.total if self.dispatch else 0, *(f.num_lines for f in (self.received, self.sealed) if f))
        return max(told)

    @property
    def count_problem(self) -> LineProblem | None:
        """What is to say when other than the declared number of lines came."""
        growth, declared = self.created.growth, self.close.declared if self.close else None
        if growth is None or declared is None or self.sealed is None:
            return None
        came = growth.lines_before + self.num_lines
        if came == declared:
            return None
        text = f"batch-close said that there are {declared} requests, but {came} came."
        return LineProblem(code=COUNT_MISMATCH_CODE, message=text, param="count")

    @property
    def answered(self) -> int:
        """Lines with a durable completion."""
        return sum(p.completed + p.failed for p in self.progress.values())

    def _events(self) -> Iterable[BatchEvent]:
        if self.dispatch is not None and self.dispatch.failed_at is not None:
            yield BatchEvent.REFUSED
            return
        if self.dispatch is not None:
            yield BatchEvent.PASSED
        if self.cancel is not None:
            yield BatchEvent.CANCEL_REQUESTED
        if self.closed is not None:
            yield BatchEvent(f"closed_{self.closed.status}")
        elif self._is_full:
            yield BatchEvent.ANSWERED


def apply_facet(view: BatchView | None, name: str, facet: Facet) -> BatchView | None:
    """Fold one facet in; a facet of a batch whose `created` was not seen yet is left for later (None)."""
    if isinstance(facet, BatchCreated):
        return replace(view, created=facet) if view else BatchView(created=facet)
    if view is None:
        return None
    match facet:
        case BatchCancelRequested():
            return replace(view, cancel=view.cancel or facet)
        case BatchReceived() | BatchCloseRequested() | BatchSealed():
            return _grown(view, facet)
        case BatchDispatched():
            return replace(view, dispatch=facet)
        case ShardProgressed():
            shard = name.partition("/")[2]
            return replace(view, progress=view.progress | {shard: _higher(view.progress.get(shard), facet)})
        case ShardRedriven():
            return replace(view, redriven=view.redriven | {name.partition("/")[2]: facet})
        case BatchClosed():
            return replace(view, closed=view.closed or facet)
        case _:
            assert_never(facet)


def _grown(view: BatchView, facet: BatchReceived | BatchCloseRequested | BatchSealed) -> BatchView:
    match facet:
        case BatchReceived():
            return replace(view, received=facet)
        case BatchCloseRequested():
            return replace(view, close=view.close or facet)
        case BatchSealed():
            return replace(view, sealed=facet)
        case _:
            assert_never(facet)


def _higher(old: ShardProgressed | None, new: ShardProgressed) -> ShardProgressed:
    if old is None or new.completed + new.failed >= old.completed + old.failed:
        return new
    return old


def batch_object(view: BatchView, *, counts_sum: bool = False) -> dict[str, Any]:
    """OpenAI's Batch object, every key present, in the order of the real service (contract 2.1).

    With `counts_sum` lines that never ran count as failed, so that completed + failed = total at the end.
    """
    created, dispatch, closed, status = view.created, view.dispatch, view.closed, view.status
    failed = dispatch is not None and dispatch.failed_at is not None
    return {
        "id": created.id,
        "object": "batch",
        "endpoint": created.endpoint,
        "model": dispatch.model if dispatch and not failed else None,
        "errors": _errors(view, failed),
        "input_file_id": created.input_file_id,
        "completion_window": created.completion_window,
        "status": str(status),
        "output_file_id": closed.output_file_id if closed else None,
        "error_file_id": closed.error_file_id if closed else None,
        "created_at": created.created_at,
        "in_progress_at": dispatch.in_progress_at if dispatch else None,
        "expires_at": created.expires_at,
        "finalizing_at": closed.finalizing_at if closed else _finalizing_at(view, status),
        "completed_at": closed.closed_at if closed and closed.status == "completed" else None,
        "failed_at": dispatch.failed_at if dispatch else None,
        "expired_at": closed.closed_at if closed and closed.status == "expired" else None,
        "cancelling_at": view.cancel.cancelling_at if view.cancel else None,
        "cancelled_at": closed.closed_at if closed and closed.status == "cancelled" else None,
        "request_counts": _counts(view, failed, counts_sum),
        "usage": _usage(closed.usage if closed else _sum_usage(view)),
        "metadata": created.metadata,
    }


def _errors(view: BatchView, failed: bool) -> dict[str, Any] | None:
    if failed and view.dispatch is not None:
        return errors_object(view.dispatch.errors)
    problem = view.count_problem
    return errors_object((problem,)) if problem else None


def _finalizing_at(view: BatchView, status: BatchStatus) -> int | None:
    if status is not BatchStatus.FINALIZING:
        return None
    return max((p.answered_at for p in view.progress.values() if p.answered_at), default=None)


def _counts(view: BatchView, failed: bool, counts_sum: bool) -> dict[str, int]:
    if closed := view.closed:
        not_run = closed.not_run if counts_sum else 0
        return {"total": closed.total, "completed": closed.completed, "failed": closed.failed + not_run}
    if view.dispatch is None or failed:
        return {"total": 0, "completed": 0, "failed": 0}
    shards = view.progress.values()
    completed, errors = sum(p.completed for p in shards), sum(p.failed for p in shards)
    return {"total": view.num_lines, "completed": completed, "failed": errors}


def _sum_usage(view: BatchView) -> Usage:
    total = Usage()
    for shard in view.progress.values():
        total = total.plus(shard.usage)
    return total


def _usage(u: Usage) -> dict[str, Any]:
    return {
        "input_tokens": u.input_tokens,
        "input_tokens_details": {"cached_tokens": u.cached_tokens},
        "output_tokens": u.output_tokens,
        "output_tokens_details": {"reasoning_tokens": u.reasoning_tokens},
        "total_tokens": u.input_tokens + u.output_tokens,
    }


def errors_object(problems: Iterable[LineProblem]) -> dict[str, Any]:
    """The envelope of `batch.errors`, never a bare list (contract 0.4)."""
    data = [{"code": p.code, "message": p.message, "param": p.param, "line": p.line} for p in problems]
    return {"object": "list", "data": data}
