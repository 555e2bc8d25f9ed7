"""How does the chain of segments grow, how is it read back, and how does it lose its oldest part? SHELL.

Create-only objects, one after the other. The chain is the truth, the recovery point and the fence: two owners may both
work, only one can extend it. Removing the oldest segments would free their keys for an owner that slept meanwhile, so
a marker that the chain starts later is written first, and every append looks for markers before it counts.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog

from shared.errors import HeadraceError, ObjectExists, ObjectNotFound
from shared.object_store import (
    ObjectStore,
    chain_prefix,
    chain_start_key,
    chain_start_prefix,
    offset_of_segment,
    segment_key,
    sha256_of,
)
from shared.segment import Entry, Footer, Segment, SegmentBuilder
from shared.segment_tail import read_segment_tail

log = structlog.get_logger(__name__)

FIRST_SHA256 = "0" * 64


class ChainTaken(HeadraceError):
    """Another collector extended or shortened the chain: stop and recover from what it wrote."""

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
        # The first offset of each segment and the batches in it, oldest first.
        self.contents: list[tuple[int, frozenset[str]]] = []

    async def walk(self) -> AsyncIterator[ChainedSegment]:
        """Read the chain from its start; afterwards `append` continues at its end. Raises BrokenChain, ChainTaken."""
        self.next_offset, self._previous_sha256, self.contents = None, FIRST_SHA256, []
        start = await self._start()
        keys = await self._store.keys(chain_prefix(self._log_id, self._topic, self._partition))
        if start != await self._start():
            raise ChainTaken("the chain was shortened while it was read")
        if start is not None:
            keys = [key for key in keys if offset_of_segment(key) >= start]
            if not keys or offset_of_segment(keys[0]) != start:
                raise BrokenChain(f"the chain should start at {start}, its first segment is {keys[:1]}")
        for key in keys:
            footer, entries = await self._tail(key)
            if start is None and key == keys[0] and footer.previous_sha256 != FIRST_SHA256:
                raise BrokenChain(f"{key} follows a segment that is gone, and no marker says that it was removed")
            if self.next_offset is not None and footer.first_offset != self.next_offset:
                raise BrokenChain(
                    f"{key} starts at {footer.first_offset}, the chain before it ends at {self.next_offset}"
                )
            self._note(footer)
            yield ChainedSegment(key, footer, entries)
        if keys:
            self._previous_sha256 = await self._sha256_of_last(keys[-1])

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
        first_offset = segment.footer.first_offset
        key = segment_key(self._log_id, self._topic, self._partition, first_offset)
        try:
            await self._store.create(key, segment.data)
        except ObjectExists:
            raise ChainTaken(f"{key} was written by another collector") from None
        start = await self._start()
        if start is not None and start > first_offset:
            raise ChainTaken(f"{key} was written and removed long ago, the chain starts at {start}")
        self._note(segment.footer)
        self._previous_sha256 = segment.sha256
        return key

    async def remove_before(self, offset: int) -> int:
        """Remove the segments before the one at `offset`, which stays; how many objects went."""
        assert any(first == offset for first, _ in self.contents), f"no segment starts at {offset}"
        marker = chain_start_key(self._log_id, self._topic, self._partition, offset)
        try:
            await self._store.create(marker, b"")
        except ObjectExists:
            log.debug("chain start was marked before", marker=marker)
        keys = await self._store.keys(chain_prefix(self._log_id, self._topic, self._partition))
        markers = await self._store.keys(chain_start_prefix(self._log_id, self._topic, self._partition))
        gone = [key for key in keys if offset_of_segment(key) < offset]
        for key in gone + [old for old in markers if offset_of_segment(old) < offset]:
            await self._store.delete(key)
        self.contents = [(first, batches) for first, batches in self.contents if first >= offset]
        return len(gone)

    def _note(self, footer: Footer) -> None:
        self.next_offset = footer.next_offset
        self.contents.append((footer.first_offset, frozenset(batch.id for batch in footer.batches)))

    async def _start(self) -> int | None:
        markers = await self._store.keys(chain_start_prefix(self._log_id, self._topic, self._partition))
        return offset_of_segment(markers[-1]) if markers else None

    async def _tail(self, key: str) -> tuple[Footer, tuple[Entry, ...]]:
        try:
            return await read_segment_tail(self._store, key)
        except ObjectNotFound:
            raise ChainTaken(f"{key} was removed while the chain was read") from None

    async def _sha256_of_last(self, key: str) -> str:
        try:
            return await sha256_of(self._store, key)
        except ObjectNotFound:
            raise ChainTaken(f"{key} was removed while the chain was read") from None
