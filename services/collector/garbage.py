"""Which segments are no longer needed? PURE: the chain's contents and the ends of batches in, an offset out.

A segment may go when every batch in it has its terminal record, for longer than the retention, and all segments before
it may go too. The last one always stays: it is the end of the chain, hence the recovery point and the fence.
"""

from collections.abc import Iterable, Mapping, Sequence

# A batch that nobody created: no client can ever ask for its lines.
NEVER_CREATED = 0


def batches_in_question(contents: Sequence[tuple[int, frozenset[str]]], known: Iterable[str]) -> frozenset[str]:
    """Batches of the oldest segment that has one whose end is not known yet; empty when all are known."""
    known = set(known)
    for _, batches in contents[:-1]:
        if unknown := batches - known:
            return frozenset(unknown)
    return frozenset()


def new_chain_start(
    contents: Sequence[tuple[int, frozenset[str]]], closed_at: Mapping[str, int], *, now_s: float, retention_s: float
) -> int | None:
    """The first offset of the oldest segment that must stay, or None when nothing may go.

    `contents` is (first offset, batches) of each segment, oldest first; `closed_at` has the Unix second at which a
    batch ended, and lacks those that did not.
    """
    num_removable = 0
    for _, batches in contents[:-1]:
        if not all(batch in closed_at and now_s - closed_at[batch] >= retention_s for batch in batches):
            break
        num_removable += 1
    return contents[num_removable][0] if num_removable else None
