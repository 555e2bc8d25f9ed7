"""Which line enters the engine next? PURE.

Lines that were polled wait here: the most urgent first, and among those as urgent as each other the ones with the
same beginning next to each other, so that the engine's prefix cache serves them. What comes while a micro-batch is
handed out is ordered with the next one, so that no line is overtaken for ever; nobody waits for a batch to fill.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

# Lines whose deadlines are closer than this are as urgent as each other, in seconds.
DEADLINE_STEP_S = 60


class Waiting(Protocol):
    """What a line is ordered by."""

    @property
    def deadline_s(self) -> int: ...

    @property
    def prompt(self) -> bytes: ...


L = TypeVar("L", bound=Waiting)
# Lower comes first.
Order = tuple[int, bytes]


def by_deadline_and_prefix(line: Waiting) -> Order:
    """Prompts are compared as bytes: equal system prompts are equal text in the file that one program wrote."""
    return line.deadline_s // DEADLINE_STEP_S, line.prompt


def as_they_came(_line: Waiting) -> Order:
    """No order of ours."""
    return 0, b""


class MicroBatches(Generic[L]):
    """The lines that wait, at most as many as the worker takes at once."""

    def __init__(self, order: Callable[[L], Order] = by_deadline_and_prefix) -> None:
        self._order = order
        self._now: deque[L] = deque()
        self._next: list[L] = []

    def __len__(self) -> int:
        return len(self._now) + len(self._next)

    def add(self, lines: Iterable[L]) -> None:
        """More lines; they are ordered when their turn comes."""
        self._next.extend(lines)

    def pop(self) -> L | None:
        """The next line, or None when nothing waits."""
        if not self._now:
            self._now.extend(sorted(self._next, key=self._order))
            self._next.clear()
        return self._now.popleft() if self._now else None

    def remove(self, is_unwanted: Callable[[L], bool]) -> list[L]:
        """Take out lines that nobody wants any more."""
        waiting = [*self._now, *self._next]
        unwanted = [line for line in waiting if is_unwanted(line)]
        if unwanted:
            self._now = deque(line for line in self._now if not is_unwanted(line))
            self._next = [line for line in self._next if not is_unwanted(line)]
        return unwanted
