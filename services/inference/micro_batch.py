"""How many records may enter, and in which order? PURE."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

FETCH_MAX = 256


class HasBody(Protocol):
    """Something with a request body."""

    @property
    def body(self) -> bytes: ...


L = TypeVar("L", bound=HasBody)


def records_to_fetch(window: int, num_in_flight: int) -> int:
    """Room in the window, at most 256 at a time; 0 when the window is full."""
    return max(0, min(FETCH_MAX, window - num_in_flight))


def order_by_prefix(lines: Sequence[L]) -> list[L]:
    """Lines with the same beginning next to each other, so that the engine's prefix cache serves them.

    Bodies are compared as bytes: equal system prompts are equal text in the file that one program wrote.
    """
    return sorted(lines, key=lambda line: line.body)
