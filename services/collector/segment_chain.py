"""How does the chain of segments grow, and how is it read back? SHELL: create-only objects, one after the other.

The chain is the truth, the recovery point and the fence: two owners may both work, only one can extend it.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog

from services.collector.segment import TRAILER_BYTES, Entry, Footer, Segment, SegmentBuilder, read_tail, tail_bytes
from shared.errors import HeadraceError, ObjectExists
from shared.object_store import ObjectStore, chain_prefix, segment_key

log = structlog.get_logger(__name__)

FIRST_SHA256 = "0" * 64
# One read that holds the whole tail of most segments.
_TAIL_GUESS_BYTES = 256 * 1024


class ChainTaken(HeadraceError):
    """Another collector extended the chain: stop and recover from what it wrote."""

    retriable = True


class BrokenChain(HeadraceError):
    """The objects in the store do not form one chain; nothing may be built on it."""


@dataclass(frozen=True, slots=True)
class ChainedSegment:
    """A segment of the chain, without its lines."""

    key: str
    footer: Footer
    entries: tuple[Entry, ...]


class SegmentChain:
    """The segments of one partition of the completions log."""

    def __init__(self, store: ObjectStore, log_id: str, topic: str, partition: int) -> None:
        self._store = store
        self._log_id, self._topic, self._partition = log_id, topic, partition
        self._previous_sha256 = FIRST_SHA256
        self.next_offset: int | None = None

    async def walk(self) -> AsyncIterator[ChainedSegment]:
        """Read the chain from its start; afterwards `append` continues at its end. Raises BrokenChain."""
        keys = await self._store.keys(chain_prefix(self._log_id, self._topic, self._partition))
        self.next_offset, self._previous_sha256 = None, FIRST_SHA256
        for key in keys:
            footer, entries = await self._tail(key)
            if self.next_offset is not None and footer.first_offset != self.next_offset:
                raise BrokenChain(
                    f"{key} starts at {footer.first_offset}, the chain before it ends at {self.next_offset}"
                )
            self.next_offset = footer.next_offset
            yield ChainedSegment(key, footer, entries)
        if keys:
            self._previous_sha256 = await self._sha256(keys[-1])

    def start_at(self, offset: int) -> None:
        """Where a chain without segments begins."""
        assert self.next_offset is None, "the chain has segments"
        self.next_offset = offset

    def builder(self) -> SegmentBuilder:
        """An empty segment at the end of the chain."""
        assert self.next_offset is not None, "walk() and start_at() come first"
        return SegmentBuilder(self._topic, self._partition, self.next_offset, self._previous_sha256)

    async def append(self, segment: Segment) -> str:
        """Make a segment durable; its key. Raises ChainTaken when another owner was first.

        An UnavailableError leaves it unknown whether the object exists: walk the chain again.
        """
        key = segment_key(self._log_id, self._topic, self._partition, segment.footer.first_offset)
        try:
            await self._store.create(key, segment.data)
        except ObjectExists:
            raise ChainTaken(f"{key} was written by another collector") from None
        self.next_offset, self._previous_sha256 = segment.footer.next_offset, segment.sha256
        return key

    async def _tail(self, key: str) -> tuple[Footer, tuple[Entry, ...]]:
        size = await self._store.size(key) or 0
        guess = await self._store.read(key, max(0, size - _TAIL_GUESS_BYTES))
        needed = tail_bytes(guess[-TRAILER_BYTES:])
        tail = guess[-needed:] if needed <= len(guess) else await self._store.read(key, size - needed)
        return read_tail(tail)

    async def _sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        async for chunk in self._store.stream(key):
            digest.update(chunk)
        return digest.hexdigest()
