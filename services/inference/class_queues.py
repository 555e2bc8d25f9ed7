"""Which class does the next line come from? PURE.

Somebody waits for an interactive request, so those go first; but of every few lines one is a batch's, or a flood of
requests would stop all batches.
"""

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from services.inference.micro_batch import MicroBatches, Waiting


class Classified(Waiting, Protocol):
    """A line that says of which class it is."""

    @property
    def is_interactive(self) -> bool: ...


L = TypeVar("L", bound=Classified)
# Interactive lines in a row while lines of batches wait.
INTERACTIVE_IN_A_ROW = 7
# Above the window so many of it are for interactive lines alone, so that they need not wait for a place.
RESERVE_SHARE = 0.25


def reserve(window: int) -> int:
    """Lines above the window that may be interactive ones."""
    return max(1, int(window * RESERVE_SHARE))


class ClassQueues(Generic[L]):
    """The lines that wait, by class."""

    def __init__(self, new_queue: Callable[[], MicroBatches[L]]) -> None:
        self._interactive, self._batch = new_queue(), new_queue()
        self._in_a_row = 0

    def add(self, lines: Iterable[L]) -> None:
        """More lines, of any class."""
        lines = list(lines)
        self._interactive.add(line for line in lines if line.is_interactive)
        self._batch.add(line for line in lines if not line.is_interactive)

    def pop(self, *, only_interactive: bool = False) -> L | None:
        """The next line, or None when nothing waits."""
        first = self._in_a_row < INTERACTIVE_IN_A_ROW or only_interactive or not len(self._batch)
        if first and (line := self._interactive.pop()) is not None:
            self._in_a_row += 1
            return line
        if only_interactive:
            return None
        self._in_a_row = 0
        return self._batch.pop()

    def remove(self, is_unwanted: Callable[[L], bool]) -> list[L]:
        """Take out lines that nobody wants any more."""
        return self._interactive.remove(is_unwanted) + self._batch.remove(is_unwanted)
