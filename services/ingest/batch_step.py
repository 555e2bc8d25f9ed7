"""What has the dispatcher to do about a batch now? PURE: the folded batch and the time in, one step out."""

from dataclasses import dataclass
from typing import Final

from shared.batch_state import BatchView


@dataclass(frozen=True, slots=True)
class Validate:
    """Read the input file and decide: failed, or in progress."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Say that a batch whose lines come one by one is in progress."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Let no more lines come, and make the ones that came its input file."""


@dataclass(frozen=True, slots=True)
class RecordEnd:
    """Append a `cancel` or `deadline` record to every shard: the decision that every replay sees."""

    kind: str


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Lines are left to dispatch."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Others are at work, or it is over."""


Step = Validate | Begin | Seal | RecordEnd | Dispatch | Wait
WAIT: Final = Wait()


def next_step(view: BatchView, *, now_s: int, next_line: int, end_recorded: bool) -> Step:
    """Decide. `next_line` is the first line that was not dispatched; `end_recorded` = a short while ago."""
    if view.is_terminal or end_recorded:
        return WAIT
    if view.created.growth is not None and (view.dispatch is None or view.dispatch.growing):
        return _growing_step(view, now_s, next_line)
    if view.cancel is not None:
        return RecordEnd("cancel")
    # No lines and not refused: somebody decided to end it before it was validated, and may have died before doing so.
    was_to_end = view.dispatch is not None and view.dispatch.total == 0 and view.created.growth is None
    if now_s >= view.created.expires_at or was_to_end:
        return RecordEnd("deadline")
    if view.dispatch is None:
        return Validate()
    return Dispatch() if next_line < view.dispatch.total else WAIT


def _growing_step(view: BatchView, now_s: int, next_line: int) -> Step:
    """Whatever ends a batch that grows first decides how many lines it has."""
    if view.dispatch is None:
        return Begin()
    if view.sealed is not None or view.cancel is not None or now_s >= view.created.expires_at:
        return Seal()
    return Dispatch() if next_line < view.num_lines else WAIT
