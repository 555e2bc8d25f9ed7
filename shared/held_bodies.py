"""When is it read what the spans of a line say of its bodies? When the spans are made; SHELL.

One line in a hundred is traced, and reading it beside the others finds the decoder and the body's bytes out of the
processor's caches. So bodies are held until the exporter's thread reads many of them one after the other, and read
sooner where that would hold too much.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Of those that are held by one owner; beyond either the oldest are read at once.
HELD_MAX, HELD_BYTES_MAX = 1_024, 4 * 1024 * 1024


class Unread(Generic[T]):
    """What will be read from bodies; by any thread."""

    __slots__ = ("_found", "_read", "num_bytes")

    def __init__(self, read: Callable[[], T], num_bytes: int) -> None:
        self._read: Callable[[], T] | None = read
        self._found: T
        self.num_bytes = num_bytes

    def value(self) -> T:
        """What they say; from the first time on without the bodies."""
        read = self._read
        if read is not None:
            self._found = read()  # two threads that both do find the same
            self._read = None
        return self._found


class HeldBodies:
    """Bodies that belong to one thread until they are read."""

    def __init__(self) -> None:
        self._held: deque[Unread[Any]] = deque()
        self._num_bytes = 0

    def hold(self, read: Callable[[], T], num_bytes: int) -> Unread[T]:
        """Hold what `read` needs, bodies of so many bytes."""
        unread = Unread(read, num_bytes)
        self._held.append(unread)
        self._num_bytes += num_bytes
        while len(self._held) > HELD_MAX or self._num_bytes > HELD_BYTES_MAX:
            oldest = self._held.popleft()
            self._num_bytes -= oldest.num_bytes
            oldest.value()
        return unread
