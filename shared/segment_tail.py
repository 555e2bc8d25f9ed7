"""How is the end of a segment read? SHELL: what it covers and where its lines are, without the lines."""

from shared.object_store import ObjectStore
from shared.segment import TRAILER_BYTES, Entry, Footer, read_tail, tail_bytes

# One read that holds the whole tail of most segments.
_TAIL_GUESS_BYTES = 256 * 1024


async def read_segment_tail(store: ObjectStore, key: str) -> tuple[Footer, tuple[Entry, ...]]:
    """Footer and entries of a segment, in one or two reads; raises ObjectNotFound, CorruptSegment."""
    size = await store.size(key) or 0
    guess = await store.read(key, max(0, size - _TAIL_GUESS_BYTES))
    needed = tail_bytes(guess[-TRAILER_BYTES:])
    tail = guess[-needed:] if needed <= len(guess) else await store.read(key, size - needed)
    return read_tail(tail)
