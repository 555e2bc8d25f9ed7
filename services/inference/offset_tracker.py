"""Which offset of a partition may be committed, and which records run again? PURE.

Lines finish out of order, so the committable offset is the first *unfinished* one among those delivered.
Offsets may have holes. The tracker outlives rebalances: what is in flight or done is not done twice when
the partition comes back, and what another owner finished above the committed offset is not done again.
"""

from collections import deque
from collections.abc import Iterable

import msgspec

from services.inference.suspicion import ISOLATE_AFTER_DEATHS, take_over
from shared.partition_note import PartitionNote, finished_bits, finished_offsets


class OffsetTracker:
    """Delivered and finished offsets of one partition, and the suspicion that rests on it."""

    def __init__(self) -> None:
        self._delivered: deque[int] = deque()
        self._in_flight: set[int] = set()
        self._finished_elsewhere: set[int] = set()
        self._finished_elsewhere_end = 0
        self._note = PartitionNote(held=True)
        self._committable = 0
        self.epoch: int | None = None
        # Where the epoch's first record must be, unless the log has a hole there.
        self.first_expected: int | None = None
        self.is_read_again = False

    @property
    def committable_offset(self) -> int:
        """Everything below it is finished; 0 before the first record."""
        return self._committable

    @property
    def num_in_flight(self) -> int:
        """Delivered and not finished."""
        return len(self._in_flight)

    @property
    def span(self) -> int:
        """Offsets from the committable one to the last delivered; one slow record lets it grow."""
        return self._delivered[-1] + 1 - self._committable if self._delivered else 0

    @property
    def is_suspicious(self) -> bool:
        """Whether an owner died with records that are not finished yet."""
        return self._note.deaths > 0 and self._committable < self._note.suspects_end

    @property
    def num_suspects(self) -> int:
        """Offsets that must run apart from everything else; 0 unless two owners died."""
        note = self._note
        if not self.is_suspicious or note.deaths < ISOLATE_AFTER_DEATHS:
            return 0
        finished = sum(self._committable <= offset < note.suspects_end for offset in self._finished_above())
        return note.suspects_end - self._committable - finished

    def take_over(self, committed: int, note: PartitionNote | None, epoch: int, window: int) -> None:
        """Begin an assignment epoch at the group's committed offset: all before it is finished by somebody."""
        self.epoch, self.first_expected, self.is_read_again = epoch, committed, False
        self._note = take_over(note, window)
        if note is not None:
            self._finished_elsewhere |= finished_offsets(note.finished, committed)
            self._finished_elsewhere_end = max(self._finished_elsewhere, default=-1) + 1
        while self._delivered and self._delivered[0] < committed:
            self._in_flight.discard(self._delivered.popleft())
        self._committable = max(self._committable, committed)
        self._advance()

    def deliver(self, offset: int) -> bool:
        """Note that the broker handed out `offset`; whether it is new work."""
        if offset < self._committable or offset in self._in_flight:
            return False
        if self._delivered and offset <= self._delivered[-1]:
            return False  # delivered before, and finished above the committable offset
        self._delivered.append(offset)
        if offset in self._finished_elsewhere:
            self._advance()
            return False
        self._in_flight.add(offset)
        return True

    def acquit(self) -> None:
        """Drop the suspicion: the suspects are not in the log any more."""
        self._note = msgspec.structs.replace(self._note, deaths=0, suspects_end=0)

    def is_condemned(self, offset: int) -> bool:
        """Whether this record killed its process each time it ran alone."""
        return offset in self._note.condemned

    def may_have_run(self, offset: int) -> bool:
        """Whether an owner that died may have had it."""
        return self._note.deaths > 0 and offset < self._note.suspects_end

    def finish(self, offset: int) -> None:
        """The completion of `offset` is acknowledged; offsets that are not in flight are ignored."""
        self._in_flight.discard(offset)
        self._advance()

    def note(self, *, held: bool, trial: Iterable[int] = (), is_alone: bool = False) -> PartitionNote:
        """What to write beside the committable offset; `trial` are the offsets that run apart now."""
        base, old = self._committable, self._note
        suspicious = self.is_suspicious
        return PartitionNote(
            held=held,
            deaths=old.deaths if suspicious else 0,
            handed_out_to=self._delivered[-1] + 1 if self._delivered else base,
            suspects_end=old.suspects_end if suspicious else 0,
            trial=tuple(trial),
            is_alone=is_alone,
            died_alone=old.died_alone if suspicious else (),
            condemned=tuple(offset for offset in old.condemned if offset >= base),
            finished=finished_bits(self._finished_above(), base),
        )

    def _finished_above(self) -> set[int]:
        here = {offset for offset in self._delivered if offset not in self._in_flight}
        return here | {offset for offset in self._finished_elsewhere if offset >= self._committable}

    def _advance(self) -> None:
        while self._delivered and self._delivered[0] not in self._in_flight:
            self._committable = self._delivered.popleft() + 1
        if self._finished_elsewhere and self._finished_elsewhere_end <= self._committable:
            self._finished_elsewhere.clear()
