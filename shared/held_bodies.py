"""When are the spans of a line made that need its bodies? When they are exported, unless too much would be held. SHELL.

One line in a hundred is traced, and reading it beside the others finds the decoder and the body's bytes out of the
processor's caches. So bodies are held until the thread that exports reads many of them one after the other.
"""

from collections import deque
from collections.abc import Iterable

import structlog

from shared.record_spans import EndedSpan, MakeSpans

log = structlog.get_logger(__name__)

# Of those that are held by one owner; beyond either the oldest are read at once.
HELD_MAX, HELD_BYTES_MAX = 1_024, 4 * 1024 * 1024


class _Unread:
    """Spans that will be made of bodies, once, by one of two threads."""

    __slots__ = ("_made", "_make", "num_bytes")

    def __init__(self, make: MakeSpans, num_bytes: int) -> None:
        self._make: MakeSpans | None = make
        self._made: Iterable[EndedSpan] = ()
        self.num_bytes = num_bytes

    def read(self) -> Iterable[EndedSpan]:
        """Make them, if nobody has, and let go of the bodies."""
        make = self._make
        if make is not None:
            try:
                self._made = make()  # two threads that both do make the same
            except Exception:  # of one line; whoever works on the others goes on
                log.exception("spans not made")
            self._make = None
        return self._made

    def take(self) -> Iterable[EndedSpan]:
        """The spans, for whoever exports them."""
        made = self.read()
        self._made = ()
        return made


class HeldBodies:
    """Bodies that are held for one thread."""

    def __init__(self) -> None:
        self._held: deque[_Unread] = deque()
        self._num_bytes = 0

    def hold(self, make: MakeSpans, num_bytes: int) -> MakeSpans:
        """The same as `make`, which needs bodies of so many bytes and lets go of them when it was called."""
        unread = _Unread(make, num_bytes)
        self._held.append(unread)
        self._num_bytes += num_bytes
        while len(self._held) > HELD_MAX or self._num_bytes > HELD_BYTES_MAX:
            oldest = self._held.popleft()
            self._num_bytes -= oldest.num_bytes
            oldest.read()
        return unread.take
