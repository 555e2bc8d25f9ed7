"""Which open batches have lines that are not dispatched, in the order of their urgency? PURE.

Kept up to date batch by batch, so that the place of one among ten thousand is found without looking at the others.
"""

from bisect import bisect_left, insort
from collections import defaultdict

from services.ingest.pacing import Urgency, urgency
from shared.batch_state import BatchView


def has_backlog(view: BatchView) -> bool:
    """Whether lines of the batch are still to be dispatched."""
    if view.is_terminal or view.cancel is not None:
        return False
    return view.dispatch is None or view.dispatch.next_line < view.num_lines


class Backlog:
    """Urgencies by tenant, sorted."""

    def __init__(self) -> None:
        self._sorted: dict[str, list[Urgency]] = defaultdict(list)
        self._known: dict[str, tuple[str, Urgency]] = {}

    def note(self, view: BatchView) -> None:
        """Put a batch in, or take it out when it has nothing left to dispatch."""
        batch_id = view.created.id
        if not has_backlog(view):
            self._remove(batch_id)
        elif batch_id not in self._known:
            tenant, mine = view.created.tenant, urgency(view.created)
            insort(self._sorted[tenant], mine)
            self._known[batch_id] = tenant, mine

    def position(self, view: BatchView) -> int | None:
        """How many of the tenant's batches come before this one; None when it has no backlog."""
        known = self._known.get(view.created.id)
        return bisect_left(self._sorted[known[0]], known[1]) if known else None

    def _remove(self, batch_id: str) -> None:
        if (known := self._known.pop(batch_id, None)) is not None:
            tenant, mine = known
            queue = self._sorted[tenant]
            del queue[bisect_left(queue, mine)]
            if not queue:
                del self._sorted[tenant]
