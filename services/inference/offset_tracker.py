"""Which offset of a partition may be committed? PURE.

Lines finish out of order, so the committable offset is the first *unfinished* one among those delivered.
Offsets may have holes. The tracker outlives rebalances: what is in flight or done is not done twice when
the partition comes back.
"""

from collections import deque


class OffsetTracker:
    """Delivered and finished offsets of one partition."""

    def __init__(self) -> None:
        self._delivered: deque[int] = deque()
        self._in_flight: set[int] = set()
        self._epoch: int | None = None
        self._committable = 0

    @property
    def committable_offset(self) -> int:
        """Everything below it is finished; 0 before the first record."""
        return self._committable

    @property
    def num_in_flight(self) -> int:
        """Delivered and not finished."""
        return len(self._in_flight)

    def deliver(self, offset: int, epoch: int) -> bool:
        """Note that the broker handed out `offset` in this assignment epoch; whether it is new work.

        The first offset of an epoch is where the group has committed: all before it is finished by somebody.
        """
        if epoch != self._epoch:
            self._epoch = epoch
            self._fast_forward(offset)
        if offset < self._committable or offset in self._in_flight:
            return False
        if self._delivered and offset <= self._delivered[-1]:
            return False  # delivered before, and finished above the committable offset
        self._delivered.append(offset)
        self._in_flight.add(offset)
        return True

    def finish(self, offset: int) -> None:
        """The completion of `offset` is acknowledged; offsets that are not in flight are ignored."""
        self._in_flight.discard(offset)
        self._advance()

    def _fast_forward(self, offset: int) -> None:
        while self._delivered and self._delivered[0] < offset:
            self._in_flight.discard(self._delivered.popleft())
        self._committable = max(self._committable, offset)
        self._advance()

    def _advance(self) -> None:
        while self._delivered and self._delivered[0] not in self._in_flight:
            self._committable = self._delivered.popleft() + 1
